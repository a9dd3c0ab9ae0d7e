//! gRPC's names of its status codes.

use tonic::Code;

/// By number.
pub const CODE_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A code's number, which is its place among the names.
pub fn code_index(code: Code) -> usize {
    usize::try_from(i32::from(code)).unwrap_or_default()
}

/// A code's name.
pub fn code_name(code: Code) -> &'static str {
    CODE_NAMES.get(code_index(code)).copied().unwrap_or("UNKNOWN")
}

/// The code of this name.
pub fn code_named(name: &str) -> Option<Code> {
    let index = CODE_NAMES.iter().position(|known| *known == name)?;
    i32::try_from(index).ok().map(Code::from)
}
