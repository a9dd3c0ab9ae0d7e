//! How near the process is to its memory limit. One task measures it, everyone may read it.

use tokio::sync::watch;

/// How near the process is to its memory limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Far from it, or there is no limit.
    #[default]
    Normal,
    /// Past 80 %: nothing new is accepted but Health and the operators' port.
    High,
    /// Past 90 %: idle connections, and the streams that hold most, are ended.
    Critical,
}

/// Handle of the pressure. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryPressure(watch::Sender<Pressure>);

impl MemoryPressure {
    /// Returns the current pressure.
    pub fn now(&self) -> Pressure {
        *self.0.borrow()
    }

    /// Subscribes to the pressure.
    pub fn watch(&self) -> watch::Receiver<Pressure> {
        self.0.subscribe()
    }

    /// Sets the pressure. Returns whether it changed.
    pub fn set(&self, pressure: Pressure) -> bool {
        self.0.send_if_modified(|known| std::mem::replace(known, pressure) != pressure)
    }
}
