//! Names of gRPC's status codes.

use tonic::Code;

/// The names, in the order of the codes' numbers.
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

/// Returns a code's number, which is its index in [`CODE_NAMES`].
pub fn code_index(code: Code) -> usize {
    usize::try_from(i32::from(code)).unwrap_or_default()
}

/// Returns a code's name.
pub fn code_name(code: Code) -> &'static str {
    CODE_NAMES.get(code_index(code)).copied().unwrap_or("UNKNOWN")
}

/// Returns the code with a name.
pub fn parse_code(name: &str) -> Option<Code> {
    let index = CODE_NAMES.iter().position(|known| *known == name)?;
    i32::try_from(index).ok().map(Code::from)
}
