//! The targets under libFuzzer: `MARKREAD_FUZZ_TARGET` names the target, and the arguments are libFuzzer's.

#![no_main]
#![allow(missing_docs, clippy::expect_used, reason = "the engine's macro, and its end")]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use markread_fuzz::{TARGETS, Target};

static CHOSEN: OnceLock<&Target> = OnceLock::new();

fn chosen() -> &'static Target {
    CHOSEN.get_or_init(|| {
        let name = std::env::var("MARKREAD_FUZZ_TARGET").expect("MARKREAD_FUZZ_TARGET is set");
        let target = TARGETS.iter().find(|target| target.name == name);
        target.expect("MARKREAD_FUZZ_TARGET names a target")
    })
}

fuzz_target!(|data: &[u8]| (chosen().run)(data));
