//! The marks whose instructions are counted.

use std::cell::Cell;

use markread::proto::batch_mark_read_result::Result as ItemResult;
use markread::proto::{BatchMarkReadRequest, BatchMarkReadResponse, MarkReadRequest};
use markread_harness::Raw;
use markread_harness::caller::Credentials;
use markread_harness::raw::{MARK_READ, OpenCall, RawAnswer, frame};
use nix::sys::signal::Signal;
use prost::Message;
use tonic::Code;

use crate::counted::Counted;

const BATCH_MARK_READ: &str = "/markread.v1.MarkReadService/BatchMarkRead";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// The prefix of an answer's message.
const FRAME_HEAD_BYTES: usize = 5;

/// Marks of one kind. They have few users: a user's object is cached for 4 s, and looking it up
/// again is counted with the marks of that time.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    calls: u64,
    /// Marks of a call; several are a batch.
    in_call: u64,
    /// Readers who take turns.
    readers: u64,
    /// Whether all readers call at once while Redis is stopped. The first three then have a script
    /// call each and the others share one, however fast the machine is.
    together: bool,
    /// Whether each mark advances its cursor.
    advances: bool,
}

const LONE: Kind = Kind {
    name: "lone_advance",
    calls: 200,
    in_call: 1,
    readers: 1,
    together: false,
    advances: true,
};

/// All kinds.
pub(crate) const KINDS: [Kind; 4] = [
    LONE,
    Kind { name: "lone_noop", advances: false, ..LONE },
    Kind { name: "shared_advance", calls: 320, readers: READERS, together: true, ..LONE },
    Kind { name: "batch_advance", calls: 24, in_call: CONVERSATIONS, ..LONE },
];

/// Creates all conversations of all readers.
const BEGINNING: Kind = Kind { readers: READERS, calls: READERS, ..KINDS[3] };

const READERS: u64 = 32;
pub(crate) const FIRST_READER: u64 = 2_000_000_000;
pub(crate) const FIRST_RECIPIENT: u64 = 1_234_567_890_123_456_789;
pub(crate) const FIRST_MESSAGE: u64 = 1_000_000_000_000_000_000;

/// Conversations of each reader, and the one that single marks are for.
pub(crate) const CONVERSATIONS: u64 = 50;
pub(crate) const MARKED: u64 = CONVERSATIONS / 2;

impl Kind {
    pub(crate) fn marks(&self) -> u64 {
        self.calls * self.in_call
    }

    fn check(&self, answer: &RawAnswer) {
        if self.in_call == 1 {
            assert_eq!(answer.marked().unwrap().advanced, self.advances, "{}", self.name);
            return;
        }
        let message = answer.body.slice(FRAME_HEAD_BYTES..);
        let response = BatchMarkReadResponse::decode(message).unwrap();
        assert_eq!(response.results.len() as u64, self.in_call);
        for item in response.results {
            let Some(ItemResult::Response(marked)) = item.result else { panic!("{item:?}") };
            assert_eq!(marked.advanced, self.advances, "{}", self.name);
        }
    }
}

/// All readers on one connection, each with a token.
pub(crate) struct Callers {
    connection: Raw,
    tokens: Vec<Credentials>,
    next_message: Cell<u64>,
}

impl Callers {
    /// Connects the readers to a server, and creates all their conversations.
    pub(crate) async fn connect(address: &str, redis: &Counted) -> Self {
        let callers = Self {
            connection: Raw::connect(address).await,
            tokens: (FIRST_READER..FIRST_READER + READERS).map(Credentials::token_of).collect(),
            next_message: Cell::new(FIRST_MESSAGE),
        };
        callers.mark(&BEGINNING, redis).await;
        callers
    }

    /// Makes the marks of this kind, and checks every answer.
    pub(crate) async fn mark(&self, kind: &Kind, redis: &Counted) {
        let mut left = kind.calls;
        while left > 0 {
            let together = if kind.together { kind.readers } else { 1 };
            let mut begun = Vec::new();
            if kind.together {
                redis.signal(Signal::SIGSTOP);
            }
            for _ in 0..together {
                left -= 1;
                begun.push(self.begin(kind, &self.tokens[(left % kind.readers) as usize]).await);
            }
            if kind.together {
                self.wait_until_idle().await;
                redis.signal(Signal::SIGCONT);
            }
            for begun in begun {
                kind.check(&begun.answer().await.unwrap());
            }
        }
    }

    async fn begin(&self, kind: &Kind, token: &Credentials) -> OpenCall {
        let (path, message) = if kind.in_call == 1 {
            (MARK_READ, self.request(kind, MARKED).encode_to_vec())
        } else {
            let requests = (0..kind.in_call).map(|place| self.request(kind, place)).collect();
            (BATCH_MARK_READ, BatchMarkReadRequest { requests }.encode_to_vec())
        };
        let head = self.connection.grpc(path, token).header("te", "trailers");
        let mut begun = self.connection.begin(head).await.unwrap();
        begun.body.send_data(frame(&message).into(), true).unwrap();
        begun
    }

    /// Waits until the server has done all that it can without Redis: it has one thread that takes
    /// calls in their order, and this call needs no Redis.
    async fn wait_until_idle(&self) {
        let head = self.connection.grpc(HEALTH_CHECK, &Credentials::Nothing);
        let answer = self.connection.send(head, frame(&[])).await.unwrap();
        assert_eq!(answer.grpc_status().code(), Code::Ok);
    }

    fn request(&self, kind: &Kind, place: u64) -> MarkReadRequest {
        let message = self.next_message.replace(self.next_message.get() + 1);
        MarkReadRequest {
            last_read_event_id: if kind.advances { message } else { 1 },
            recipient_id: FIRST_RECIPIENT + place,
        }
    }
}
