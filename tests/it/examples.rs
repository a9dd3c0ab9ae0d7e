//! The programs in `examples/` work with real servers.

use std::path::Path;

use markread_harness::tools::{self, file, output};
use markread_harness::{MESSAGE, READER, Server};
use tokio::process::Command;

/// The line that both clients print.
fn marked() -> String {
    format!("{READER} read up to {MESSAGE}\n")
}

#[tokio::test]
async fn the_rust_client_marks_and_watches() {
    let server = Server::dev(&[]).await;
    let example = Path::new(env!("CARGO_BIN_EXE_markread")).with_file_name("examples");
    let mut example = Command::new(example.join("mark_and_watch"));
    example.arg(format!("http://{}", server.address));
    assert_eq!(output(example).await, format!("advanced: true\n{}", marked()));
}

#[tokio::test]
async fn the_python_client_marks_and_watches() {
    let server = Server::dev(&[]).await;
    let stubs = tempfile::tempdir().unwrap();
    let into = stubs.path().to_str().unwrap();
    let mut protoc = Command::new(tools::python());
    protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(file("proto"));
    protoc.args([format!("--python_out={into}"), format!("--grpc_python_out={into}")]);
    protoc.arg(file("proto/markread/v1/mark_read.proto"));
    output(protoc).await;
    let mut example = Command::new(tools::python());
    example.arg(file("examples/mark_and_watch.py")).arg(&server.address).env("PYTHONPATH", into);
    assert_eq!(output(example).await, format!("advanced: True\n{}", marked()));
}
