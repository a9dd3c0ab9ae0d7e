//! Calls whose message is announced and never sent.
//!
//! Each call has sent the five bytes in front of a gRPC message, which announce 64 KiB. A decoder that
//! reserves what is announced holds 640 MiB for two hundred kilobytes of traffic. Bound: a message takes
//! the memory that has arrived of it, and half-sent requests without identity are few.

use std::sync::Arc;
use std::time::Duration;

use markread_harness::raw::MARK_READ;
use tokio::time::sleep;

use crate::calls::{ATTACKER, HEALTH_CHECK, LARGEST_FRAME_HEAD, REFLECTION, token};
use crate::case::{Case, case};
use crate::http2::{self, Call};
use crate::stage::Stage;

const CONNECTIONS: usize = 40;
const STREAMS: usize = 250;
const HELD: Duration = Duration::from_secs(4);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("frame heads: reflection", |stage| hold(stage, REFLECTION, None)),
        case!("frame heads: Health/Check", |stage| hold(stage, HEALTH_CHECK, None)),
        case!("frame heads: MarkRead, no token", |stage| hold(stage, MARK_READ, None)),
        case!("frame heads: MarkRead", |stage| hold(stage, MARK_READ, Some(ATTACKER))),
    ]
}

async fn hold(stage: Arc<Stage>, path: &str, user: Option<u64>) {
    let call = Call::new(path, user.map(token).as_deref(), &LARGEST_FRAME_HEAD);
    let attack = async {
        let many = [CONNECTIONS, STREAMS];
        let held = http2::hold(stage.address(), many, 65_535, |stream| call.begun(stream)).await;
        sleep(HELD).await;
        held
    };
    stage.attack(attack).await;
}
