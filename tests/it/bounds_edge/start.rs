//! Bounds that the system cannot hold are warned of at the start, with the figure that would hold.

use markread_harness::binary::path;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::LIMIT;

async fn warning(flags: &[&str], text: &str) -> Option<String> {
    let server = Server::dev(flags).await;
    let warned = eventually("it has started", LIMIT, async || {
        let log = server.log();
        log.iter().any(|line| line.contains("--dev")).then_some(log)
    })
    .await;
    // The warnings of the start come together.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    drop(warned);
    server.log().into_iter().find(|line| line.contains(text))
}

/// Starts a server that has so many file descriptors.
async fn limited(redis: &Redis, soft: u64, hard: u64, flags: &[&str]) -> Server {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={soft}:{hard}")).arg(path()).kill_on_drop(true);
    let server = Server::at_by(command, &redis.url(), flags).await;
    server.wait_until_ready().await;
    server
}

/// Opens connections that send nothing. Returns those that are still open a moment later.
async fn hold(server: &Server, connections: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..connections {
        held.push(TcpStream::connect(&server.address).await.unwrap());
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    held.retain(|stream| {
        let read = stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    });
    held
}

#[tokio::test]
async fn the_soft_limit_of_descriptors_is_raised_as_far_as_needed() {
    let redis = Redis::start().await;
    let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    let server = limited(&redis, 100, hard, &["--max-connections", "400"]).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft = files.split_whitespace().nth(3).unwrap();
    assert_eq!(soft, "528", "connections and a reserve");
    assert_eq!(hold(&server, 300).await.len(), 300);
    assert_eq!(server.get("/livez").await.0, 200);
    assert!(!server.log().join("").contains("--max-connections"), "{:?}", server.log());
}

#[tokio::test]
async fn where_the_hard_limit_is_lower_probes_and_redis_are_reached_all_the_same() {
    let redis = Redis::start().await;
    let server = limited(&redis, 100, 300, &[]).await;
    let log = server.log();
    let warned: Vec<_> = log.iter().filter(|line| line.contains("--max-connections")).collect();
    assert_eq!(warned.len(), 1, "{log:?}");
    assert!(warned[0].contains("limit of 300") && warned[0].contains("at most 172"), "{warned:?}");

    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    let held = hold(&server, 400).await;
    assert!((100..172).contains(&held.len()), "{} are open", held.len());
    for page in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(server.get(page).await.0, 200, "{page}");
    }
    // All connections to Redis are lost, and new ones are possible.
    redis.run::<u64>("CLIENT KILL TYPE normal SKIPME yes").await;
    eventually("marks are served again", LIMIT, async || {
        caller.mark(RECIPIENT, MESSAGE + 1).await.ok()
    })
    .await;
    server.wait_until_ready().await;
    for message in MESSAGE + 2..MESSAGE + 50 {
        caller.mark(RECIPIENT, message).await.unwrap();
    }
    assert!(!server.log().join("").contains("could be accepted"), "{:?}", server.log());
}

#[tokio::test]
async fn more_memory_than_there_is_is_warned_of() {
    let line = warning(&["--memory-limit", "1000TiB"], "--memory-limit").await;
    let line = line.expect("a warning");
    assert!(line.contains("the limit is"), "{line}");
    assert_eq!(warning(&["--memory-limit", "64MiB"], "--memory-limit").await, None);
}

#[tokio::test]
async fn more_connections_than_memory_are_warned_of() {
    let warned = async |connections| {
        let flags = ["--memory-limit", "64MiB", "--max-connections", connections];
        warning(&flags, "idle connections").await
    };
    let line = warned("2400").await.expect("a warning");
    assert!(line.contains("1458 would fit into half of it"), "{line}");
    assert_eq!(warned("2300").await, None);
}
