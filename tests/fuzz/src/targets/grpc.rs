//! gRPC: messages in a body, the messages of each RPC, and where a request goes.

use http::{HeaderValue, Method, Request, Version};
use markread::edge::ReflectionAccess;
use markread::edge::grpc::MESSAGE_MAX_BYTES;
use markread::edge::grpc::fuzzing::{decode, messages, one_message};
use markread::edge::routing::{Protocol, Route, Target};
use markread::proto;
use prost::Message;

use crate::input::{halves, pieces};

const HEAD_BYTES: usize = 5;

/// A body: its messages are the same however it is cut, and one message is exactly one.
pub(super) fn framing(data: &[u8]) {
    let (pieces, whole) = pieces(data);
    let (expected, is_complete) = split(whole);
    let (found, ended_well) = messages(&pieces);
    for (nth, message) in found.iter().enumerate() {
        let Some(expected) = expected.get(nth) else {
            // A bad head is shown at once, to be refused, with what has arrived. Nobody reads on then.
            assert!(!is_good(message), "more messages than there are");
            break;
        };
        assert_eq!(message, expected);
    }
    assert!(found.len() >= expected.len(), "{} of {} messages", found.len(), expected.len());
    if is_complete {
        assert_eq!((found.len(), ended_well), (expected.len(), true));
    }
    let only = one_message(&pieces);
    match &expected[..] {
        [one] if is_complete => assert_eq!(only.as_deref(), Some(*one)),
        _ => assert!(only.is_none_or(|only| !is_good(&only)), "not one message"),
    }
}

/// Returns the good messages before anything else, with their heads, and whether there is nothing else.
fn split(mut body: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut messages = Vec::new();
    while is_good(body) {
        let length = HEAD_BYTES + length(body);
        if body.len() < length {
            break;
        }
        messages.push(&body[..length]);
        body = &body[length..];
    }
    (messages, body.is_empty())
}

fn is_good(message: &[u8]) -> bool {
    message.len() >= HEAD_BYTES && message[0] == 0 && length(message) <= MESSAGE_MAX_BYTES
}

fn length(message: &[u8]) -> usize {
    let length = [message[1], message[2], message[3], message[4]];
    usize::try_from(u32::from_be_bytes(length)).unwrap()
}

/// The messages of all RPCs: what is decoded is encoded to what is decoded to the same.
pub(super) fn requests(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else { return };
    match kind % 6 {
        0 => request::<proto::MarkReadRequest>(message),
        1 => request::<proto::BatchMarkReadRequest>(message),
        2 => request::<proto::GetReadStateRequest>(message),
        3 => request::<proto::BatchGetReadStatesRequest>(message),
        4 => request::<proto::ListReadCursorsRequest>(message),
        _ => request::<proto::WatchMarkReadEventsRequest>(message),
    }
}

fn request<M: Message + Default + PartialEq + std::fmt::Debug>(message: &[u8]) {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0][..], &length, message].concat();
    let decoded = decode::<M>(&framed).ok();
    assert_eq!(decoded, M::decode(message).ok());
    if let Some(decoded) = decoded {
        let encoded = decoded.encode_to_vec();
        assert!(encoded.len() <= message.len() + 10 * message.len(), "it grows");
        assert_eq!(M::decode(&encoded[..]).ok(), Some(decoded));
    }
}

/// Lines of method and path, and a content type: only POST over HTTP/2 with its content type is gRPC, and
/// only a known path is anything.
pub(super) fn routing(data: &[u8]) {
    let (lines, content_type) = halves(data);
    let mut lines = lines.splitn(2, |byte| *byte == b'\n');
    let method = Method::from_bytes(lines.next().unwrap_or_default());
    let (Ok(method), path) = (method, lines.next().unwrap_or_default()) else { return };
    let Ok(value) = HeaderValue::from_bytes(content_type) else { return };
    let version = if data.len().is_multiple_of(2) { Version::HTTP_2 } else { Version::HTTP_11 };
    let request = Request::builder().method(&method).uri(path).version(version);
    let Ok(request) = request.header("content-type", value).body(()) else { return };
    let Route { protocol, target } = Route::new(&request, ReflectionAccess::Off);
    let is_grpc = [b"application/grpc".as_slice(), b"application/grpc+proto"];
    if protocol == Protocol::Grpc {
        assert!(method == Method::POST && version == Version::HTTP_2);
        assert!(is_grpc.contains(&content_type));
    }
    match target {
        Target::Unknown | Target::WrongHttpMethod | Target::WrongContentType => {}
        Target::Reflection(_) => panic!("reflection is off"),
        Target::MarkReadJson => assert_eq!(request.uri().path(), Target::MARK_READ_JSON),
        Target::Rpc(rpc) => assert_eq!(request.uri().path(), format!("/{}", rpc.full_name())),
        Target::Health(_) => {
            assert!(request.uri().path().starts_with("/grpc.health.v1.Health/"));
        }
    }
}
