//! Panics as log lines, without paths of the machine that built the program.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{Location, PanicHookInfo, set_hook};

use super::LogThrottle;

/// Longest part of a panic's message that is logged, in characters.
const MESSAGE_MAX_CHARS: usize = 200;

/// Logs panics from now on, at most one a minute. The backtrace, which has the paths, only appears if
/// `RUST_BACKTRACE` asks for it.
pub(super) fn log_panics() {
    let throttle = LogThrottle::default();
    set_hook(Box::new(move |panic| {
        if let Some(suppressed) = throttle.permit() {
            log(panic, suppressed);
        }
    }));
}

fn log(panic: &PanicHookInfo<'_>, suppressed: u64) {
    let at = panic.location().map(place).unwrap_or_default();
    let problem = message(panic.payload());
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(at, ?problem, %backtrace, suppressed, "panicked");
    } else {
        tracing::error!(at, ?problem, suppressed, "panicked");
    }
}

/// Returns crate, file and line, as in `tokio-1.54.0/src/task.rs:7`.
fn place(location: &Location<'_>) -> String {
    format!("{}:{}", within_crate(location.file()), location.line())
}

/// Returns a path from its crate's folder on.
fn within_crate(file: &str) -> &str {
    let Some(src) = file.rfind("/src/") else {
        return if file.starts_with('/') { "" } else { file };
    };
    let folder = file[..src].rfind('/').map_or(0, |slash| slash + 1);
    &file[folder..]
}

fn message(payload: &dyn Any) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or_default().chars().take(MESSAGE_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_no_path_of_the_building_machine() {
        let registry = "/home/me/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f";
        for (file, expected) in [
            ("src/edge/mod.rs", "src/edge/mod.rs"),
            (&format!("{registry}/tokio-1.54.0/src/task.rs"), "tokio-1.54.0/src/task.rs"),
            ("/home/me/markread/src/main.rs", "markread/src/main.rs"),
            ("/rustc/5f1/library/core/src/option.rs", "core/src/option.rs"),
            ("/home/me/build.rs", ""),
        ] {
            assert_eq!(within_crate(file), expected, "{file}");
        }
    }

    #[test]
    fn a_message_is_cut() {
        assert_eq!(message(&"short"), "short");
        assert_eq!(message(&"é".repeat(500)), "é".repeat(MESSAGE_MAX_CHARS));
        assert_eq!(message(&7), "");
    }
}
