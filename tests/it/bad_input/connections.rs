//! Connections that do not speak HTTP, or begin calls only to reset them.

use std::time::{Duration, Instant};

use h2::Reason;
use markread_harness::raw::MARK_READ;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::{Target, reader, until_closed};

/// A TLS 1.3 `ClientHello`, as clients with the wrong scheme send it.
pub(super) fn client_hello() -> Vec<u8> {
    let mut hello = vec![0x03, 0x03];
    hello.extend([0x5a; 32]);
    hello.push(32);
    hello.extend([0xa5; 32]);
    hello.extend([0, 2, 0x13, 0x01, 1, 0]);
    hello.extend([0, 7, 0, 43, 0, 3, 2, 0x03, 0x04]);
    let length = u16::try_from(hello.len()).unwrap();
    let handshake = [&[1, 0], &length.to_be_bytes()[..], &hello].concat();
    let length = u16::try_from(handshake.len()).unwrap();
    [&[0x16, 0x03, 0x01], &length.to_be_bytes()[..], &handshake].concat()
}

/// Random bytes, up to a few KiB.
pub(super) fn random_bytes(seed: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut bytes = vec![0; random.random_range(1..5000)];
    random.fill_bytes(&mut bytes);
    bytes
}

#[tokio::test]
async fn a_client_that_speaks_tls_to_the_plain_port_is_cut() {
    let target = Target::start().await;
    let hello = client_hello();
    for end in [hello.len(), hello.len() / 2, 5, 1] {
        let received = until_closed(&target.server.address, &hello[..end]).await;
        assert!(received.is_empty() || received.starts_with(b"HTTP/1.1 400"), "{received:?}");
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn random_bytes_are_cut() {
    let target = Target::start().await;
    for seed in 0..60 {
        let received = until_closed(&target.server.address, &random_bytes(seed)).await;
        assert!(received.is_empty() || received.starts_with(b"HTTP/1.1 4"), "{received:?}");
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn a_silent_connection_is_cut_after_the_handshake_timeout() {
    let target = Target::start().await;
    for begun in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let began = Instant::now();
        let received = until_closed(&target.server.address, begun).await;
        assert!(received.is_empty(), "{received:?}");
        assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    }
    target.assert_unharmed_after(0).await;
}

/// The peak memory of a process, in KiB.
fn peak_memory_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Begins calls and resets them at once, until the server closes the connection.
pub(super) async fn reset_rapidly(target: &Target, calls: usize) {
    let raw = target.raw().await;
    for _ in 0..calls {
        let Ok(mut call) = raw.begin(raw.grpc(MARK_READ, &reader())).await else { break };
        call.body.send_reset(Reason::CANCEL);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_flood_of_resets_costs_neither_time_nor_memory() {
    let target = Target::start().await;
    target.server.caller(super::READER).mark(super::RECIPIENT, 1).await.unwrap();
    let before = peak_memory_kib(target.server.id());
    let began = Instant::now();
    for _ in 0..5 {
        reset_rapidly(&target, 2000).await;
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let grown = peak_memory_kib(target.server.id()) - before;
    assert!(grown < 64 * 1024, "{grown} KiB");
    target.assert_unharmed_after(1).await;
}
