//! What a request asks for, and in which protocol: by path, then HTTP method, then content type.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, Version};

use crate::edge::answer::{Body, Refusal};
use crate::proto::Rpc;
use crate::telemetry::metrics::RecordedMethod;

/// What is known of a request once its head has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The protocol that the caller speaks, and so is answered in.
    pub wire: Wire,
    /// What is asked for.
    pub target: Target,
}

/// The protocols of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// gRPC over HTTP/2.
    Grpc,
    /// Anything else, answered in the seed's form.
    Http,
}

/// What there is to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A method of `markread.v1.MarkReadService`.
    Rpc(Rpc),
    /// The seed's endpoint over plain HTTP, `direct_messages/mark_read.json`.
    MarkReadJson,
    /// `grpc.health.v1.Health`.
    Health,
    /// Server reflection, version 1.
    ReflectionV1,
    /// Server reflection, version 1alpha.
    ReflectionV1Alpha,
    /// A path that is not there.
    Unknown,
    /// A path of ours, with another HTTP method than POST.
    WrongHttpMethod,
    /// A path of ours, not asked as gRPC.
    WrongContentType,
}

impl Asked {
    /// What a request asks for.
    pub fn of<B>(request: &Request<B>) -> Self {
        let target = Target::of_path(request.uri().path());
        let wire = if target == Target::MarkReadJson { Wire::Http } else { Wire::of(request) };
        let target = match target {
            Target::Unknown => Target::Unknown,
            _ if request.method() != Method::POST => Target::WrongHttpMethod,
            // What its body may be is looked at with the body.
            Target::MarkReadJson => Target::MarkReadJson,
            _ if wire != Wire::Grpc => Target::WrongContentType,
            target => target,
        };
        Self { wire, target }
    }

    /// Whether a mark is asked for, by whichever edge.
    pub fn is_mark(self) -> bool {
        matches!(
            self.target,
            Target::Rpc(Rpc::MarkRead | Rpc::BatchMarkRead) | Target::MarkReadJson
        )
    }

    /// A refusal in the caller's protocol.
    pub fn refuse(self, refusal: Refusal) -> Response<Body> {
        match self.wire {
            Wire::Grpc => refusal.into_grpc().into_http(),
            Wire::Http => refusal.into_http(),
        }
    }

    /// As what the call's duration is recorded. Only unary methods are: the others end long after
    /// their head is answered. What is not ours is one method, whatever was asked.
    pub fn recorded_method(self) -> Option<RecordedMethod> {
        match self {
            Self { target: Target::Rpc(Rpc::WatchMarkReadEvents), .. } => None,
            Self { target: Target::Rpc(rpc), .. } => Some(RecordedMethod::Ours(rpc)),
            Self { wire: Wire::Grpc, target: Target::Unknown } => Some(RecordedMethod::Other),
            _ => None,
        }
    }
}

impl Wire {
    fn of<B>(request: &Request<B>) -> Self {
        // As the gRPC protocol has it: POST, over HTTP/2, of its content type.
        let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        match (request.method(), request.version(), content_type) {
            (
                &Method::POST,
                Version::HTTP_2,
                Some(b"application/grpc" | b"application/grpc+proto"),
            ) => Self::Grpc,
            _ => Self::Http,
        }
    }
}

impl Target {
    /// The path of the seed's endpoint.
    pub const MARK_READ_JSON: &str = "/1.1/direct_messages/mark_read.json";

    fn of_path(path: &str) -> Self {
        let ours = path
            .strip_prefix('/')
            .and_then(|name| Rpc::ALL.into_iter().find(|rpc| rpc.full_name() == name));
        if let Some(rpc) = ours {
            return Self::Rpc(rpc);
        }
        match path {
            Self::MARK_READ_JSON => Self::MarkReadJson,
            "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/Watch" => Self::Health,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => Self::ReflectionV1,
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => {
                Self::ReflectionV1Alpha
            }
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_routed_by_path_then_method_then_content_type() {
        const MARK_READ: &str = "/markread.v1.MarkReadService/MarkRead";
        const JSON: &str = "/1.1/direct_messages/mark_read.json";
        let grpc = Some("application/grpc");
        let table = [
            (Method::POST, MARK_READ, grpc, Wire::Grpc, Target::Rpc(Rpc::MarkRead)),
            (
                Method::POST,
                "/markread.v1.MarkReadService/ListReadCursors",
                Some("application/grpc+proto"),
                Wire::Grpc,
                Target::Rpc(Rpc::ListReadCursors),
            ),
            (Method::GET, MARK_READ, grpc, Wire::Http, Target::WrongHttpMethod),
            (
                Method::POST,
                MARK_READ,
                Some("application/grpc+json"),
                Wire::Http,
                Target::WrongContentType,
            ),
            (Method::POST, MARK_READ, Some("text/plain"), Wire::Http, Target::WrongContentType),
            (Method::POST, MARK_READ, None, Wire::Http, Target::WrongContentType),
            (
                Method::POST,
                "/markread.v1.MarkReadService/Nothing",
                grpc,
                Wire::Grpc,
                Target::Unknown,
            ),
            (Method::GET, "/", None, Wire::Http, Target::Unknown),
            (Method::POST, JSON, None, Wire::Http, Target::MarkReadJson),
            (Method::POST, JSON, grpc, Wire::Http, Target::MarkReadJson),
            (Method::GET, JSON, None, Wire::Http, Target::WrongHttpMethod),
            (
                Method::POST,
                "/1.1/direct_messages/mark_read.json/",
                None,
                Wire::Http,
                Target::Unknown,
            ),
            (Method::POST, "/grpc.health.v1.Health/Check", grpc, Wire::Grpc, Target::Health),
            (Method::POST, "/grpc.health.v1.Health/List", grpc, Wire::Grpc, Target::Unknown),
        ];
        for (method, path, content_type, wire, target) in table {
            let mut request = Request::builder().method(method).uri(path).version(Version::HTTP_2);
            if let Some(content_type) = content_type {
                request = request.header(CONTENT_TYPE, content_type);
            }
            let request = request.body(()).unwrap();
            assert_eq!(Asked::of(&request), Asked { wire, target }, "{path} {content_type:?}");
        }
    }

    #[test]
    fn grpc_is_spoken_over_http_2_only() {
        let request = Request::post("/markread.v1.MarkReadService/MarkRead")
            .header(CONTENT_TYPE, "application/grpc")
            .body(())
            .unwrap();
        let asked = Asked { wire: Wire::Http, target: Target::WrongContentType };
        assert_eq!(Asked::of(&request), asked);
    }
}
