//! Hears from a Sentinel that another server is the master.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use redis::{AsyncConnectionConfig, PushInfo, PushKind};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::lookup::Sentinels;
use super::{ANSWER_MAX, ask, connect, no_answer};
use crate::store::redis::cluster::topology::Address;
use crate::store::redis::connection::mode::connect_to_master;

/// Where Sentinels announce a new master.
pub(super) const CHANNEL: &str = "+switch-master";

/// Time between two questions, in case an announcement was missed or the Sentinel hangs.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest and longest time before another Sentinel is tried.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

impl Sentinels {
    /// Completes when a Sentinel says that the master is elsewhere than it was last found, with what it says.
    pub(crate) async fn moved(&self) -> String {
        let Some(known) = self.found() else { return pending().await };
        let mut pause = RETRY_MIN;
        loop {
            let Some(&sentinel) = self.in_order().first() else { return pending().await };
            let began = Instant::now();
            let problem = match self.hear(sentinel, &known).await {
                // A Sentinel that was cut off may be behind.
                Ok(place) if !self.is_master(&place).await => {
                    format!("it names {place}, which is no master")
                }
                Ok(place) => {
                    let name = &self.group.master_name;
                    return format!("Sentinel says that the master {name} is at {place} now");
                }
                Err(problem) => problem,
            };
            self.distrust(sentinel);
            if let Some(suppressed) = self.watch_log.permit() {
                let sentinel = self.name(sentinel);
                tracing::warn!(
                    sentinel,
                    ?problem,
                    suppressed,
                    "a Sentinel is not heard, another is tried"
                );
            }
            if began.elapsed() > RETRY_MAX {
                pause = RETRY_MIN;
            }
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn is_master(&self, place: &Address) -> bool {
        let Ok(client) = self.group.master_at(place) else { return false };
        let config = AsyncConnectionConfig::new();
        let connected = timeout(ANSWER_MAX, connect_to_master(&client, &config)).await;
        connected.is_ok_and(|connected| connected.is_ok())
    }

    /// Listens to one Sentinel until it names another place than this one.
    async fn hear(&self, sentinel: usize, known: &Address) -> Result<Address, String> {
        let address = self.group.sentinels.get(sentinel).ok_or("there is no such Sentinel")?;
        let name = &self.group.master_name;
        let heard = Arc::new(Notify::new());
        let notify = Arc::clone(&heard);
        let config =
            AsyncConnectionConfig::new().set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                // Whatever it is about: the Sentinel is asked.
                if matches!(push.kind, PushKind::Message | PushKind::Disconnection) {
                    notify.notify_one();
                }
                Ok(())
            });
        let mut connection =
            timeout(ANSWER_MAX, connect(address, &config)).await.map_err(no_answer)??;
        let subscribed =
            timeout(ANSWER_MAX, connection.subscribe(CHANNEL)).await.map_err(no_answer)?;
        subscribed.map_err(|error| super::cause(&error))?;
        loop {
            let asked = timeout(ANSWER_MAX, ask(&mut connection, name)).await;
            let place = asked.map_err(no_answer)??;
            if place != *known {
                return Ok(place);
            }
            tokio::select! {
                () = heard.notified() => {}
                () = sleep(ASK_INTERVAL) => {}
            }
        }
    }
}
