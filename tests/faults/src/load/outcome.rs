//! What a status says about whether the call ran.

use markread_harness::caller::Refusal;
use tonic::Code;

use crate::history::Outcome;

/// Reasons of refusals before the store was asked, or by the store without effect. UNAVAILABLE and
/// `DEADLINE_EXCEEDED` are not among them, whatever their reason: a mark may have been done, or be done later.
const BEFORE_EFFECT: [&str; 10] = [
    "INVALID_PARAMETER",
    "MESSAGE_TOO_LARGE",
    "CREDENTIALS_MISSING",
    "CREDENTIALS_INVALID",
    "USER_CONTEXT_REQUIRED",
    "RATE_LIMIT_EXCEEDED",
    "CONCURRENCY_LIMIT_EXCEEDED",
    "OVERLOADED",
    "EDGE_LIMIT_EXCEEDED",
    "WATCHER_TOO_SLOW",
];

/// The outcome of a call, or of an item of a batch, by its code and reason. A status without a reason was not
/// made by the service, but by what is between it and the client, such as a connection that broke.
pub(super) fn of_failure(code: Code, reason: &str) -> Outcome {
    if BEFORE_EFFECT.contains(&reason) && !is_doubtful(code) {
        Outcome::Refused(code)
    } else {
        Outcome::Unknown(code)
    }
}

/// The same, of a call.
pub(super) fn of_refusal(refusal: &Refusal) -> Outcome {
    of_failure(refusal.code, &refusal.reason)
}

fn is_doubtful(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_service_refused_is_known_not_to_have_run() {
        let quota = of_failure(Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
        assert_eq!(quota, Outcome::Refused(Code::ResourceExhausted));
        // A stream that was reset with ENHANCE_YOUR_CALM.
        let reset = of_failure(Code::ResourceExhausted, "");
        assert_eq!(reset, Outcome::Unknown(Code::ResourceExhausted));
        for reason in ["STORE_UNAVAILABLE", "DRAINING"] {
            let unavailable = of_failure(Code::Unavailable, reason);
            assert_eq!(unavailable, Outcome::Unknown(Code::Unavailable));
        }
        assert_eq!(of_failure(Code::Internal, "INTERNAL"), Outcome::Unknown(Code::Internal));
    }
}
