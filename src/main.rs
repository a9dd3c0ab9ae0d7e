//! `markread`: the process.

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // One crypto backend, for TLS and tokens. Only a second installation fails.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    markread::cli::run(std::env::args_os())
}
