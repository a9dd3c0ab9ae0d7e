//! `markread mark`, `markread state` and `markread watch`: a client for people.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use prost_types::Timestamp;
use serde_json::json;
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::client::{Client, ClientConfig, connect};
use crate::domain::{MessageId, TIME_MAX_MS, UserId};
use crate::proto::codes::code_name;
use crate::proto::watch_mark_read_events_response::Update;
use crate::proto::{
    BatchGetReadStatesRequest, ListReadCursorsRequest, MarkReadEvent, MarkReadRequest,
    MarkReadResponse, ReadCursor, ReadState, WatchMarkReadEventsRequest,
    WatchMarkReadEventsResponse,
};

/// Cursors of a page: the maximum.
const PAGE_CURSORS: i32 = 1000;

/// Pause before a watch is opened again, should a server end each at once.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// A call to a server.
#[derive(Clone, Debug)]
pub enum ClientCommand {
    /// Mark a message as read.
    Mark {
        /// The other user of the conversation.
        recipient: UserId,
        /// The message.
        last_read_event_id: MessageId,
    },
    /// Show the read state of conversations.
    State {
        /// The other users; empty for all of the caller's conversations.
        recipients: Vec<UserId>,
        /// Message up to which the caller must have read each of them.
        at_least: Option<MessageId>,
    },
    /// Print events as they arrive.
    Watch {
        /// Position to resume after; empty for events from now on.
        after: String,
        /// Format of an event.
        format: Format,
    },
}

/// Format of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Makes a call and passes each line to `print`; a watch ends if that fails. The call must end with the
/// expected status.
///
/// # Errors
///
/// The problem, in one line.
pub(crate) async fn run(
    config: ClientConfig,
    command: ClientCommand,
    expected: Code,
    mut print: impl FnMut(&str) -> io::Result<()>,
) -> Result<(), String> {
    let client = connect(config.clone()).map_err(|error| error.to_string())?;
    let answered = match command {
        ClientCommand::Mark { recipient, last_read_event_id } => {
            mark(client, recipient, last_read_event_id).await
        }
        ClientCommand::State { recipients, at_least } => state(client, &recipients, at_least).await,
        ClientCommand::Watch { after, format } => {
            watch(client, config, after, format, &mut print).await
        }
    };
    let mut print = |text: &str| print(text).map_err(|error| format!("output failed: {error}"));
    match answered {
        Ok(Answer { text, .. }) if expected != Code::Ok => {
            print(&text)?;
            Err(format!("the call was answered OK, expected {}", code_name(expected)))
        }
        Ok(Answer { text, missed }) => {
            if !text.is_empty() {
                print(&text)?;
            }
            missed.map_or(Ok(()), Err)
        }
        Err(status) if status.code() == expected => print(&failure(&status)),
        Err(status) => Err(failure(&status)),
    }
}

/// An answer for people, and the expectation that it missed.
#[derive(Default)]
struct Answer {
    text: String,
    missed: Option<String>,
}

/// Prints events until the output fails, or the server ends the watch for another reason than the age of
/// its connection.
async fn watch(
    mut client: Client,
    config: ClientConfig,
    mut after: String,
    format: Format,
    mut print: impl FnMut(&str) -> io::Result<()>,
) -> Result<Answer, Status> {
    loop {
        match print_events(client, &mut after, format, &mut print).await {
            Err(status) if is_of_connection_age(&status) => {
                sleep(REOPEN_PAUSE).await;
                // The old connection may still take a call that it does not serve.
                client =
                    connect(config.clone()).map_err(|error| Status::from_error(error.into()))?;
            }
            ended => return ended.map(|()| Answer::default()),
        }
    }
}

/// Returns whether a watch has ended because of the age of its connection.
fn is_of_connection_age(status: &Status) -> bool {
    let details = status.get_error_details();
    status.code() == Code::Unavailable
        && details.error_info().is_some_and(|info| info.reason == "CONNECTION_AGE")
}

/// Prints the events of one watch, and keeps the position to resume after.
async fn print_events(
    mut client: Client,
    after: &mut String,
    format: Format,
    mut print: impl FnMut(&str) -> io::Result<()>,
) -> Result<(), Status> {
    let request = WatchMarkReadEventsRequest { after: after.clone() };
    let mut updates = client.watch_mark_read_events(request).await?.into_inner();
    while let Some(WatchMarkReadEventsResponse { update }) = updates.message().await? {
        match &update {
            Some(Update::Event(MarkReadEvent { id, .. })) => after.clone_from(id),
            Some(Update::Heartbeat(heartbeat)) => after.clone_from(&heartbeat.id),
            Some(Update::Gap(_)) | None => {}
        }
        let line = match (update, format) {
            (Some(Update::Event(event)), Format::Text) => event_line(&event),
            (Some(Update::Event(event)), Format::Json) => event_json(&event),
            (Some(Update::Gap(gap)), Format::Text) => {
                format!("gap: {}", gap.message.escape_debug())
            }
            (Some(Update::Gap(gap)), Format::Json) => json!({ "gap": gap.message }).to_string(),
            (Some(Update::Heartbeat(_)) | None, _) => continue,
        };
        if print(&line).is_err() {
            break;
        }
    }
    Ok(())
}

fn event_line(event: &MarkReadEvent) -> String {
    let MarkReadEvent { id, sender_id, recipient_id, last_read_event_id, created_at } = event;
    let (id, time) = (id.escape_debug(), time(created_at.as_ref()));
    format!("{time}  {sender_id} read up to {last_read_event_id} of {recipient_id}  ({id})")
}

/// IDs are strings, as in the webhook payload.
fn event_json(event: &MarkReadEvent) -> String {
    json!({
        "id": event.id,
        "sender_id": event.sender_id.to_string(),
        "recipient_id": event.recipient_id.to_string(),
        "last_read_event_id": event.last_read_event_id.to_string(),
        "created_at": time(event.created_at.as_ref()),
    })
    .to_string()
}

async fn mark(mut client: Client, recipient: UserId, message: MessageId) -> Result<Answer, Status> {
    let (last_read_event_id, recipient_id) = (message.get(), recipient.get());
    let request = MarkReadRequest { last_read_event_id, recipient_id };
    let MarkReadResponse { cursor, advanced } = client.mark_read(request).await?.into_inner();
    let [message, time] = cursor_cells(cursor.as_ref());
    let text = if advanced {
        format!("advanced to {message} at {time}")
    } else {
        format!("unchanged at {message} since {time}")
    };
    Ok(Answer { text, missed: None })
}

async fn state(
    mut client: Client,
    recipients: &[UserId],
    at_least: Option<MessageId>,
) -> Result<Answer, Status> {
    if recipients.is_empty() {
        return Ok(Answer { text: all_cursors(client).await?, missed: None });
    }
    let recipient_ids = recipients.iter().map(|recipient| recipient.get()).collect();
    let request = BatchGetReadStatesRequest { recipient_ids };
    let states = client.batch_get_read_states(request).await?.into_inner().states;
    let missed = at_least.and_then(|message| {
        let unread = states.iter().find(|state| {
            state.mine.as_ref().is_none_or(|mine| mine.last_read_event_id < message.get())
        })?;
        Some(format!("the reader has not read up to {message} of {}", unread.recipient_id))
    });
    Ok(Answer { text: table(&states), missed })
}

/// Returns all of the caller's own cursors.
async fn all_cursors(mut client: Client) -> Result<String, Status> {
    let (page_size, mut page_token) = (PAGE_CURSORS, String::new());
    let mut lines = Vec::new();
    loop {
        let request = ListReadCursorsRequest { page_size, page_token };
        let page = client.list_read_cursors(request).await?.into_inner();
        lines.extend(page.cursors.into_iter().map(|cursor| {
            let [message, time] = cursor_cells(Some(&cursor));
            [cursor.recipient_id.to_string(), message, time]
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(columns(["RECIPIENT", "MINE", "AT"], lines));
        }
    }
}

/// Returns a header and a line for each conversation, in columns.
fn table(states: &[ReadState]) -> String {
    let lines = states.iter().map(|state| {
        let [mine, mine_at] = cursor_cells(state.mine.as_ref());
        let [theirs, theirs_at] = cursor_cells(state.theirs.as_ref());
        [state.recipient_id.to_string(), mine, mine_at, theirs, theirs_at]
    });
    columns(["RECIPIENT", "MINE", "AT", "THEIRS", "AT"], lines.collect())
}

fn columns<const N: usize>(head: [&str; N], lines: Vec<[String; N]>) -> String {
    let rows: Vec<_> = [head.map(str::to_owned)].into_iter().chain(lines).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<_> = (0..N).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns a cursor's message and time.
fn cursor_cells(cursor: Option<&ReadCursor>) -> [String; 2] {
    let Some(cursor) = cursor else { return ["never".to_owned(), "-".to_owned()] };
    [cursor.last_read_event_id.to_string(), time(cursor.read_at.as_ref())]
}

/// Formats a time by RFC 3339.
fn time(at: Option<&Timestamp>) -> String {
    let at = at.and_then(|at| {
        let seconds = Duration::from_secs(at.seconds.try_into().ok()?);
        let nanos = Duration::from_nanos(at.nanos.try_into().ok()?);
        // A later one has no text.
        UNIX_EPOCH.checked_add((seconds + nanos).min(Duration::from_millis(TIME_MAX_MS)))
    });
    humantime::format_rfc3339_millis(at.unwrap_or(UNIX_EPOCH)).to_string()
}

/// Returns a status in one line, escaped, since it comes from outside.
pub(super) fn failure(status: &Status) -> String {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| format!(" {}", info.reason.escape_debug()));
    let message = status.message().escape_debug();
    format!("{}{}: {message}", code_name(status.code()), reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_conversation() {
        let read_at = Some(Timestamp { seconds: 1_518_127_183, nanos: 443_000_000 });
        let cursor = ReadCursor { recipient_id: 7, last_read_event_id: 5, read_at };
        let state = |recipient_id, mine, theirs| ReadState { recipient_id, mine, theirs };
        let states = [state(3_805_104_374, Some(cursor), None), state(8, None, Some(cursor))];
        let expected = "\
RECIPIENT   MINE   AT                        THEIRS  AT
3805104374  5      2018-02-08T21:59:43.443Z  never   -
8           never  -                         5       2018-02-08T21:59:43.443Z";
        assert_eq!(table(&states), expected);
    }

    #[test]
    fn a_failure_is_one_escaped_line() {
        let status = Status::unavailable("a\nb\u{1b}[31m");
        assert_eq!(failure(&status), "UNAVAILABLE: a\\nb\\u{1b}[31m");
    }
}
