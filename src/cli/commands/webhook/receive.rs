//! `markread webhook receive`: a receiver for development and tests.

use std::fmt;
use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;

use super::say;
use crate::cli::commands::interrupt::Interrupt;
use crate::relay::dev_receiver::{self, Line, ReceiverSettings};

/// Settings of the command.
pub struct ReceiveConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The consumer secret.
    pub secret: Vec<u8>,
    /// It ends after so many events.
    pub expect: Option<u64>,
    /// With `expect`, it fails after this time.
    pub timeout: Option<Duration>,
}

/// Receives events, and prints each.
///
/// # Errors
///
/// The problem, in one line.
pub(in crate::cli) async fn receive(config: ReceiveConfig) -> Result<(), String> {
    let ReceiveConfig { listen, secret, expect, timeout } = config;
    let mut interrupt = Interrupt::new().map_err(|error| error.to_string())?;
    let cannot_listen = |error| format!("--listen {listen}: {error}");
    let listener = TcpListener::bind(listen).await.map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;
    say(&format!("listening at http://{address}"));
    let settings = ReceiverSettings { listener, secret, expect, timeout };
    tokio::select! {
        received = dev_receiver::run(settings, print) => received,
        () = interrupt.wait() => match expect {
            None => Ok(()),
            Some(_) => Err("interrupted".to_owned()),
        },
    }
}

fn print(line: Line<'_>) {
    match line {
        // A closed output ends nothing: events are still counted.
        Line::Event(event) => {
            let _ = writeln!(stdout(), "{event}");
        }
        Line::Refused(problem) => say(&format!("refused: {problem}")),
    }
}

impl fmt::Debug for ReceiveConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the secret.
        f.debug_struct("ReceiveConfig").field("listen", &self.listen).finish_non_exhaustive()
    }
}
