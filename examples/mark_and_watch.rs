//! Marks a message as read, and watches the event as the other user's devices would.
//!
//! ```text
//! markread serve --dev &
//! cargo run --example mark_and_watch
//! ```

#![allow(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error;

use markread::client::{ClientConfig, Credentials, connect};
use markread::proto::watch_mark_read_events_response::Update;
use markread::proto::{MarkReadRequest, WatchMarkReadEventsRequest};

const READER: u64 = 2_244_994_945;
const RECIPIENT: u64 = 3_805_104_374;
const MESSAGE: u64 = 8_754_578_330_382_663_743;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("http://127.0.0.1:50051".to_owned());
    let client_of = |user: u64| -> Result<_, Box<dyn Error>> {
        let credentials = Credentials::new(None, Some(user.try_into()?))?;
        let address = address.parse()?;
        Ok(connect(ClientConfig { address, credentials, ca: None, certificate: None })?)
    };

    let watch = WatchMarkReadEventsRequest::default();
    let mut updates = client_of(RECIPIENT)?.watch_mark_read_events(watch).await?.into_inner();
    // The first message is a heartbeat: the watch is open, and could be resumed from its ID.
    updates.message().await?;

    let mark = MarkReadRequest { last_read_event_id: MESSAGE, recipient_id: RECIPIENT };
    let marked = client_of(READER)?.mark_read(mark).await?.into_inner();
    println!("advanced: {}", marked.advanced);

    while let Some(message) = updates.message().await? {
        if let Some(Update::Event(event)) = message.update {
            println!("{} read up to {}", event.sender_id, event.last_read_event_id);
            break;
        }
    }
    Ok(())
}
