//! Compiles the proto in pure Rust, without `protoc`, and records the revision.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, error::Error, fs};

const PROTO: &str = "markread/v1/mark_read.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    compile_proto(&PathBuf::from(env::var("OUT_DIR")?))?;
    println!("cargo:rerun-if-env-changed=MARKREAD_REVISION");
    println!("cargo:rustc-env=MARKREAD_REVISION={}", revision());
    Ok(())
}

fn compile_proto(out_dir: &Path) -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile([PROTO], ["proto"])?;
    let encoded = protox::prost::Message::encode_to_vec(&descriptors);
    fs::write(out_dir.join("markread.v1.bin"), encoded)?;
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::proto::codec::SmallBuffers")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Returns the revision for `markread --version` and `markread_build_info`: the environment's, since an
/// image is built without `.git`; otherwise git's; otherwise `unknown`.
fn revision() -> String {
    if let Ok(revision) = env::var("MARKREAD_REVISION") {
        return revision;
    }
    // Sources unpacked inside another repository do not have its revision.
    let own = git(&["rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix.is_empty());
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).filter(|_| own);
    for watched in ["HEAD", "refs/heads"] {
        let path = git(&["rev-parse", "--git-path", watched]).filter(|_| own);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    revision.unwrap_or_else(|| "unknown".to_owned())
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}
