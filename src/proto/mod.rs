//! The wire: generated messages, client and server of `proto/markread/v1/mark_read.proto`, the names
//! of its RPCs and of gRPC's status codes.

pub mod codec;
pub mod codes;
mod rpc;

pub use self::generated::*;
pub use self::rpc::Rpc;

/// The descriptors that reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("markread.v1");

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::as_conversions,
    clippy::doc_lazy_continuation,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod generated {
    tonic::include_proto!("markread.v1");
}
