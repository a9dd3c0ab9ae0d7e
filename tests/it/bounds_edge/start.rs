//! Bounds that the system cannot hold are warned of at the start, with the figure that would hold.

use markread_harness::{Server, eventually};

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

#[tokio::test]
async fn more_connections_than_descriptors_are_warned_of() {
    let line = warning(&["--max-connections", "1000000"], "--max-connections").await;
    let line = line.expect("a warning");
    assert!(line.contains("would fit"), "{line}");
    assert_eq!(warning(&["--max-connections", "100"], "--max-connections").await, None);
    // Harmless: the other bound comes first.
    let peer = ["--max-connections", "100", "--max-connections-per-peer", "1000000"];
    assert_eq!(warning(&peer, "--max-connections").await, None);
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
    let line = warned("1400").await.expect("a warning");
    assert!(line.contains("838 would fit into half of it"), "{line}");
    assert_eq!(warned("1300").await, None);
}
