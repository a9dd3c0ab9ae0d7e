//! Server reflection, in both versions: grpcurl uses v1, Postman, grpcui and evans v1alpha.

use std::convert::Infallible;

use ::http::{Request, Response};
use tonic_reflection::server::{Builder, Error};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::answer::Body;
use super::grpc::MESSAGE_MAX_BYTES;
use super::routing::ReflectionVersion;
use crate::net::body::RequestBody;
use crate::proto;

/// Who may use server reflection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReflectionAccess {
    /// Everyone.
    On,
    /// Nobody: its paths are unknown.
    Off,
    /// Callers with valid credentials.
    Authenticated,
}

/// Serves reflection.
pub(super) struct Reflection {
    v1: BoxService,
    v1alpha: BoxService,
}

type BoxService = BoxCloneSyncService<Request<RequestBody>, Response<Body>, Infallible>;

impl Reflection {
    pub(super) fn new() -> Result<Self, Error> {
        let v1 = builder().build_v1()?.max_decoding_message_size(MESSAGE_MAX_BYTES);
        let v1alpha = builder().build_v1alpha()?.max_decoding_message_size(MESSAGE_MAX_BYTES);
        Ok(Self { v1: BoxService::new(v1), v1alpha: BoxService::new(v1alpha) })
    }

    pub(super) async fn serve(
        &self,
        version: ReflectionVersion,
        request: Request<RequestBody>,
    ) -> Response<Body> {
        let service = match version {
            ReflectionVersion::V1 => &self.v1,
            ReflectionVersion::V1Alpha => &self.v1alpha,
        };
        let Ok(response) = service.clone().oneshot(request).await;
        response
    }
}

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // So that grpcurl can print error details.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}
