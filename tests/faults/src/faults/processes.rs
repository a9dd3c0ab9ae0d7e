//! Servers and relays that are killed, stopped and restarted.

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::guards::Stopped;
use super::{NotRun, Reach, duration};
use crate::world::World;

/// What happens to a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// SIGKILL, and a start after a while.
    Killed,
    /// SIGSTOP, and SIGCONT after a while.
    Stopped,
    /// SIGTERM, or SHUTDOWN to a Redis, and a start.
    Restarted,
}

pub(super) async fn server(
    world: &mut World,
    random: &mut StdRng,
    end: End,
) -> Result<Reach, NotRun> {
    let server = random.random_range(0..world.servers.len());
    match end {
        End::Killed => {
            world.kill_server(server).await;
            sleep(duration(random, 0..=500)).await;
            world.start_server(server, &[]).await;
        }
        End::Stopped => {
            let _stopped = Stopped::new(world.server(server).id());
            sleep(duration(random, 1000..=3000)).await;
        }
        End::Restarted => {
            world.drain_server(server).await;
            world.start_server(server, &[]).await;
        }
    }
    Ok(None)
}

pub(super) async fn relay(
    world: &mut World,
    random: &mut StdRng,
    end: End,
) -> Result<Reach, NotRun> {
    let relay = random.random_range(0..world.relays.len());
    match end {
        End::Killed => {
            world.kill_relay(relay).await;
            sleep(duration(random, 0..=500)).await;
            world.start_relay(relay).await;
        }
        End::Stopped => {
            let _stopped = Stopped::new(world.relay(relay).id());
            sleep(duration(random, 1000..=3000)).await;
        }
        End::Restarted => {
            world.drain_relay(relay).await;
            world.start_relay(relay).await;
        }
    }
    Ok(None)
}
