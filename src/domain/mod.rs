//! The words of the service: IDs, marks and their rule, quotas, events, refusals. Nothing here
//! imports gRPC, HTTP or Redis.

mod cursor_record;
mod entry_id;
mod event;
mod field;
mod ids;
mod mark;
mod nonce;
mod position;
mod quota;
mod read_state;
mod refusal;
mod users;
#[cfg(feature = "server")]
mod watch_position;
#[cfg(feature = "server")]
mod webhook;

pub use self::cursor_record::CursorRecord;
pub use self::entry_id::{EntryId, InvalidEntryId};
pub use self::event::{Event, event_payload};
pub use self::field::{
    AHEAD_MAX_SECONDS, BAD_ITEMS_MAX_NAMED, BATCH_MAX_ITEMS, BadField, FieldProblem,
    LAST_READ_EVENT_ID, PAGE_MAX_CURSORS, RECIPIENT_ID,
};
pub use self::ids::{InvalidId, MAX_ID, MessageId, UserId};
pub use self::mark::{Mark, Outcome, ReadCursor, ServedMark, TIME_MAX_MS, advances};
pub use self::nonce::Nonce;
pub use self::position::{InvalidPosition, Position};
pub use self::quota::{Quota, RateLimit};
pub use self::read_state::{
    Conversation, CursorPage, HashPart, ListOrder, ListPosition, ReadOutcome, ReadState,
};
pub use self::refusal::{Flaw, Refusal};
pub use self::users::{
    CALL_USER_OBJECTS_MAX_BYTES, USER_OBJECT_MAX_BYTES, UserObject, Users, distinct_users,
};
#[cfg(feature = "server")]
pub use self::watch_position::{MAX_PARTITIONS, RESUME_BACK_MS, Start, WatchPosition};
#[cfg(feature = "server")]
pub use self::webhook::{DeliveryId, InvalidDeliveryId, InvalidWebhookName, WebhookName};
