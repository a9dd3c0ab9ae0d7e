//! The header `date` (RFC 9110 section 6.6.1), written once a second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

thread_local! {
    static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Returns the value of `date` now.
pub(crate) fn now() -> HeaderValue {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(written, value)| {
        if *written != second
            && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(now))
        {
            (*written, *value) = (second, date);
        }
        value.clone()
    })
}
