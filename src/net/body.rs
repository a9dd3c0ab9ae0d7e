//! The body of a request.

/// The body of a request, as it arrives.
pub type RequestBody = hyper::body::Incoming;
