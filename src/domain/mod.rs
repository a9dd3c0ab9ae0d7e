//! The words of the service: what a mark is, the rule that a cursor only moves forward, quotas, events.
//! Nothing here knows gRPC, HTTP or Redis.

mod entry_id;
mod event;
mod ids;
mod mark;
mod nonce;
mod read_state;
mod users;

pub use self::entry_id::{EntryId, InvalidEntryId};
pub use self::event::{Event, event_payload};
pub use self::ids::{InvalidId, MAX_ID, MessageId, UserId};
pub use self::mark::{
    BATCH_MAX_ITEMS, BadField, FieldProblem, LAST_READ_EVENT_ID, Mark, Outcome, PAGE_MAX_CURSORS,
    Quota, RECIPIENT_ID, RateLimit, ReadCursor, advances,
};
pub use self::nonce::Nonce;
pub use self::read_state::{Conversation, CursorPage, ReadOutcome, ReadState};
pub use self::users::{USER_OBJECT_MAX_BYTES, UserObject, Users, distinct_users};
