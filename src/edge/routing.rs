//! Where a request goes, and which protocol answers it: by path, then HTTP method, then content type.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Version};

use super::ReflectionAccess;
use crate::proto::Rpc;

/// Where a request goes and which protocol answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The protocol of the caller, and so of the answer.
    pub protocol: Protocol,
    /// Where the request goes.
    pub target: Target,
}

/// The protocols of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Plain HTTP, answered as Twitter's v1.1 API does.
    Http,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A method of `markread.v1.MarkReadService`.
    Rpc(Rpc),
    /// The endpoint of Twitter's v1.1 API, `direct_messages/mark_read.json`.
    MarkReadJson,
    /// A method of `grpc.health.v1.Health`.
    Health(HealthMethod),
    /// Server reflection.
    Reflection(ReflectionVersion),
    /// An unknown path.
    Unknown,
    /// A known path with another HTTP method than POST.
    WrongHttpMethod,
    /// A gRPC path with another content type than gRPC's.
    WrongContentType,
}

/// The methods of Health that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthMethod {
    /// `Check`.
    Check,
    /// `Watch`.
    Watch,
}

/// The versions of server reflection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReflectionVersion {
    /// `grpc.reflection.v1`.
    V1,
    /// `grpc.reflection.v1alpha`.
    V1Alpha,
}

impl Route {
    /// Routes a request by its head. While reflection is off its paths are unknown.
    pub fn new<B>(request: &Request<B>, reflection: ReflectionAccess) -> Self {
        let known = match Target::from_path(request.uri().path()) {
            Target::Reflection(_) if reflection == ReflectionAccess::Off => Target::Unknown,
            target => target,
        };
        let protocol = match known {
            Target::MarkReadJson => Protocol::Http,
            _ => Protocol::new(request),
        };
        let target = match known {
            Target::Unknown => Target::Unknown,
            _ if request.method() != Method::POST => Target::WrongHttpMethod,
            // Its content type is checked together with the body.
            Target::MarkReadJson => Target::MarkReadJson,
            _ if protocol != Protocol::Grpc => Target::WrongContentType,
            target => target,
        };
        Self { protocol, target }
    }

    /// Returns whether the request is to mark messages, by either protocol.
    pub fn is_mark(self) -> bool {
        matches!(
            self.target,
            Target::Rpc(Rpc::MarkRead | Rpc::BatchMarkRead) | Target::MarkReadJson
        )
    }

    /// Returns the RPC under which the call's duration is recorded: `Some(None)` for unknown methods of
    /// gRPC, `None` for streams and for plain HTTP.
    #[allow(clippy::option_option, reason = "not recorded, and recorded without a name, differ")]
    pub fn recorded_rpc(self) -> Option<Option<Rpc>> {
        match self {
            Self { target: Target::Rpc(Rpc::WatchMarkReadEvents), .. } => None,
            Self { target: Target::Rpc(rpc), .. } => Some(Some(rpc)),
            Self { protocol: Protocol::Grpc, target: Target::Unknown } => Some(None),
            _ => None,
        }
    }
}

impl Protocol {
    /// gRPC is POST over HTTP/2 with its content type; anything else is plain HTTP.
    fn new<B>(request: &Request<B>) -> Self {
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
    /// Path of the endpoint of Twitter's v1.1 API.
    pub const MARK_READ_JSON: &str = "/1.1/direct_messages/mark_read.json";

    fn from_path(path: &str) -> Self {
        let rpc = path
            .strip_prefix('/')
            .and_then(|name| Rpc::ALL.into_iter().find(|rpc| rpc.full_name() == name));
        if let Some(rpc) = rpc {
            return Self::Rpc(rpc);
        }
        match path {
            Self::MARK_READ_JSON => Self::MarkReadJson,
            "/grpc.health.v1.Health/Check" => Self::Health(HealthMethod::Check),
            "/grpc.health.v1.Health/Watch" => Self::Health(HealthMethod::Watch),
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => {
                Self::Reflection(ReflectionVersion::V1)
            }
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => {
                Self::Reflection(ReflectionVersion::V1Alpha)
            }
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_by_path_then_method_then_content_type() {
        const MARK_READ: &str = "/markread.v1.MarkReadService/MarkRead";
        const JSON: &str = "/1.1/direct_messages/mark_read.json";
        const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let grpc = Some("application/grpc");
        let table = [
            (Method::POST, MARK_READ, grpc, Protocol::Grpc, Target::Rpc(Rpc::MarkRead)),
            (
                Method::POST,
                "/markread.v1.MarkReadService/ListReadCursors",
                Some("application/grpc+proto"),
                Protocol::Grpc,
                Target::Rpc(Rpc::ListReadCursors),
            ),
            (Method::GET, MARK_READ, grpc, Protocol::Http, Target::WrongHttpMethod),
            (
                Method::POST,
                MARK_READ,
                Some("application/grpc+json"),
                Protocol::Http,
                Target::WrongContentType,
            ),
            (Method::POST, MARK_READ, Some("text/plain"), Protocol::Http, Target::WrongContentType),
            (Method::POST, MARK_READ, None, Protocol::Http, Target::WrongContentType),
            (
                Method::POST,
                "/markread.v1.MarkReadService/Nothing",
                grpc,
                Protocol::Grpc,
                Target::Unknown,
            ),
            (Method::GET, "/", None, Protocol::Http, Target::Unknown),
            (Method::POST, JSON, None, Protocol::Http, Target::MarkReadJson),
            (Method::POST, JSON, grpc, Protocol::Http, Target::MarkReadJson),
            (Method::GET, JSON, None, Protocol::Http, Target::WrongHttpMethod),
            (
                Method::POST,
                "/1.1/direct_messages/mark_read.json/",
                None,
                Protocol::Http,
                Target::Unknown,
            ),
            (
                Method::POST,
                "/grpc.health.v1.Health/Check",
                grpc,
                Protocol::Grpc,
                Target::Health(HealthMethod::Check),
            ),
            (Method::GET, REFLECTION, None, Protocol::Http, Target::WrongHttpMethod),
            (Method::POST, "/grpc.health.v1.Health/List", grpc, Protocol::Grpc, Target::Unknown),
        ];
        for (method, path, content_type, protocol, target) in table {
            let mut request = Request::builder().method(method).uri(path).version(Version::HTTP_2);
            if let Some(content_type) = content_type {
                request = request.header(CONTENT_TYPE, content_type);
            }
            let request = request.body(()).unwrap();
            assert_eq!(
                Route::new(&request, ReflectionAccess::On),
                Route { protocol, target },
                "{path} {content_type:?}"
            );
        }
    }

    #[test]
    fn while_reflection_is_off_its_paths_are_unknown() {
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            for request in [Request::post(&path), Request::get(&path)] {
                let request = request.body(()).unwrap();
                assert_eq!(Route::new(&request, ReflectionAccess::Off).target, Target::Unknown);
                assert_ne!(Route::new(&request, ReflectionAccess::On).target, Target::Unknown);
            }
        }
    }

    #[test]
    fn grpc_is_over_http_2_only() {
        let request = Request::post("/markread.v1.MarkReadService/MarkRead")
            .header(CONTENT_TYPE, "application/grpc")
            .body(())
            .unwrap();
        let route = Route { protocol: Protocol::Http, target: Target::WrongContentType };
        assert_eq!(Route::new(&request, ReflectionAccess::On), route);
    }
}
