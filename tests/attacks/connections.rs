//! Connections that are many, or that do nothing.

use std::sync::Arc;
use std::time::Duration;

use markread_harness::wire::{PREFACE, SETTINGS};
use tokio::time::sleep;

use crate::calls::{ATTACKER, watch};
use crate::case::{Case, case};
use crate::http2::{Connection, Reading, connect, connect_from};
use crate::stage::Stage;

const WINDOW: u32 = 65_535;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("connections: of one peer", of_one_peer).flags("--max-connections-per-peer 100"),
        case!("connections: only the preface", only_the_preface).flags("--handshake-timeout 1s"),
        case!("connections: idle, with PINGs", idle)
            .flags("--idle-timeout 2s --keepalive-interval 1s"),
    ]
}

fn open_count(all: &[Connection]) -> usize {
    all.iter().filter(|one| !one.seen.closed()).count()
}

/// A peer opens 300 connections. Bound: `--max-connections-per-peer`. Its twin, another peer, opens as
/// many as it may.
async fn of_one_peer(stage: Arc<Stage>) {
    const MOST: usize = 100;
    let start = [PREFACE, SETTINGS].concat();
    let attack = async {
        let open = async |own: &str, count: usize| {
            let mut all = Vec::new();
            for _ in 0..count {
                let stream = connect_from(own, stage.address()).await.unwrap();
                all.extend(Connection::over(stream, &start, Reading::All).await);
            }
            all
        };
        let many = open("127.0.0.2:0", 3 * MOST).await;
        let twin = open("127.0.0.3:0", MOST).await;
        sleep(Duration::from_secs(2)).await;
        let (left, of_twin) = (open_count(&many), open_count(&twin));
        stage.check(left <= MOST, format!("of 300 connections {MOST} stay: {left} did"));
        stage.check(of_twin == MOST, format!("of {MOST} connections all stay: {of_twin} did"));
    };
    stage.attack(attack).await;
}

/// 300 connections that send the preface of HTTP/2 and nothing more. Bound: `--handshake-timeout`. Their
/// twins send their SETTINGS too, and may be silent.
async fn only_the_preface(stage: Arc<Stage>) {
    let attack = async {
        let (mut silent, mut twins) = (Vec::new(), Vec::new());
        for _ in 0..300 {
            let stream = connect(stage.address()).await.unwrap();
            silent.extend(Connection::over(stream, PREFACE, Reading::All).await);
        }
        for _ in 0..10 {
            twins.push(Connection::open(stage.address(), WINDOW, Reading::All).await.unwrap());
        }
        sleep(Duration::from_secs(3)).await;
        let (left, of_twins) = (open_count(&silent), open_count(&twins));
        stage.check(left == 0, format!("connections that have not begun are closed: {left} left"));
        stage.check(of_twins == 10, format!("those that have stay: {of_twins} of 10"));
    };
    stage.attack(attack).await;
}

/// 200 connections that make no call and answer each PING. Bound: `--idle-timeout`. Their twins watch.
async fn idle(stage: Arc<Stage>) {
    let watch = watch(ATTACKER, "");
    let attack = async {
        let (mut idle, mut twins) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            idle.push(Connection::open(stage.address(), WINDOW, Reading::All).await.unwrap());
        }
        for _ in 0..5 {
            let mut twin = Connection::open(stage.address(), WINDOW, Reading::All).await.unwrap();
            twin.begin(1, |stream| watch.complete(stream)).await.unwrap();
            twins.push(twin);
        }
        sleep(Duration::from_secs(5)).await;
        let left = idle.iter().filter(|one| !one.seen.closed()).count();
        let of_twins = open_count(&twins);
        stage.check(left == 0, format!("idle connections are closed: {left} of 200 left"));
        stage.check(of_twins == 5, format!("those with a watch stay: {of_twins} of 5"));
    };
    stage.attack(attack).await;
}
