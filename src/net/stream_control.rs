//! What a streaming answer and the connection that sends it tell each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Handle that an answer carries in its extensions if it is a stream that can end early. Clones share it.
///
/// While the client does not read, the connection still polls such an answer, which then returns nothing
/// but its end. So the end of a token or of a queue is told at once, however long the client does not
/// read.
#[derive(Clone, Debug, Default)]
pub struct StreamControl(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    stalled: AtomicBool,
    ending: AtomicBool,
}

impl StreamControl {
    /// Returns whether the client does not read: only the end may be returned.
    pub fn is_stalled(&self) -> bool {
        self.0.stalled.load(Ordering::Relaxed)
    }

    /// Returns whether the connection has reached its age: the answer must end now.
    pub fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::Relaxed)
    }

    /// Tells whether the client does not read. The caller polls the answer then.
    pub fn set_stalled(&self, stalled: bool) {
        self.0.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Tells that the answer must end. The caller polls the answer then.
    pub fn end(&self) {
        self.0.ending.store(true, Ordering::Relaxed);
    }
}
