//! Hears from the Sentinels that another server is the master.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{AsyncConnectionConfig, PushInfo, PushKind};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::claims::{Claim, Claims, Move};
use super::lookup::{Sentinels, lock};
use super::{ANSWER_MAX, ask, connect, no_answer};
use crate::chance::random_range;
use crate::store::redis::cluster::topology::Address;
use crate::store::redis::connection::mode::connect_to_master;

/// Where Sentinels announce a new master.
pub(super) const CHANNEL: &str = "+switch-master";

/// Time between two questions, in case an announcement was missed or a Sentinel hangs.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest and longest time before a Sentinel that failed is tried again.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What all Sentinels say at the time.
struct Heard {
    claims: Mutex<Claims>,
    news: Notify,
    /// Of any Sentinel: then all are asked, since the one that leads a failover knows before it tells.
    announcements: watch::Sender<()>,
}

impl Heard {
    fn set(&self, sentinel: usize, claim: Option<Claim>) {
        lock(&self.claims).set(sentinel, claim);
        self.news.notify_one();
    }

    /// Returns where the master has moved to, and keeps up with the epoch of the known one.
    fn moved_from(&self, known: &mut Claim) -> Option<Move> {
        let claims = lock(&self.claims);
        known.epoch = claims.epoch_of(&known.place).unwrap_or_default().max(known.epoch);
        claims.moved_from(known)
    }
}

impl Sentinels {
    /// Completes when the Sentinels say that the master is elsewhere than it was last connected to, with
    /// what they say.
    pub(crate) async fn moved(&self) -> String {
        let Some(used) = self.used() else { return pending().await };
        let claims = Mutex::new(Claims::new(self.count()));
        let (news, announcements) = Default::default();
        let heard = Heard { claims, news, announcements };
        let hear_all =
            join_all((0..self.count()).map(|sentinel| self.keep_hearing(sentinel, &heard)));
        let place = tokio::select! {
            _ = hear_all => pending().await,
            place = self.await_move(&heard, used.claim) => place,
        };
        format!("Sentinel says that the master {} is at {place} now", self.group.master_name)
    }

    /// Waits until there is reason to leave a master.
    async fn await_move(&self, heard: &Heard, mut known: Claim) -> Address {
        loop {
            heard.news.notified().await;
            let Some(mut moved) = heard.moved_from(&mut known) else { continue };
            // One that says so may be cut off from the others, or ahead of them.
            let used = known.place.clone();
            let mut lives = pin!(self.is_master(&used));
            while !moved.is_certain {
                tokio::select! {
                    lives = &mut lives => moved.is_certain = !lives,
                    () = heard.news.notified() => {
                        if let Some(newer) = heard.moved_from(&mut known) {
                            moved = newer;
                            continue;
                        }
                    }
                }
                break;
            }
            if moved.is_certain && self.is_master(&moved.to.place).await {
                return moved.to.place;
            }
        }
    }

    async fn is_master(&self, place: &Address) -> bool {
        let Ok(client) = self.group.master_at(place) else { return false };
        let config = AsyncConnectionConfig::new();
        let connected = timeout(ANSWER_MAX, connect_to_master(&client, &config)).await;
        connected.is_ok_and(|connected| connected.is_ok())
    }

    /// Hears one Sentinel, and connects again when it fails.
    async fn keep_hearing(&self, sentinel: usize, heard: &Heard) -> Infallible {
        let mut pause = RETRY_MIN;
        loop {
            let began = Instant::now();
            let Err(problem) = self.hear(sentinel, heard).await;
            heard.set(sentinel, None);
            if let Some(suppressed) = self.watch_log.permit() {
                let sentinel = self.name(sentinel);
                tracing::warn!(sentinel, ?problem, suppressed, "a Sentinel is not heard");
            }
            if began.elapsed() > RETRY_MAX {
                pause = RETRY_MIN;
            }
            sleep(pause.mul_f64(random_range(0.5..1.0))).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Listens to one Sentinel, and asks it after each announcement of any.
    async fn hear(&self, sentinel: usize, heard: &Heard) -> Result<Infallible, String> {
        let address = self.address(sentinel)?;
        let announcements = heard.announcements.clone();
        let mut announced = announcements.subscribe();
        let config =
            AsyncConnectionConfig::new().set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                // Whatever it is about: the Sentinels are asked.
                if matches!(push.kind, PushKind::Message | PushKind::Disconnection) {
                    announcements.send_replace(());
                }
                Ok(())
            });
        let mut connection =
            timeout(ANSWER_MAX, connect(address, &config)).await.map_err(no_answer)??;
        let subscribed =
            timeout(ANSWER_MAX, connection.subscribe(CHANNEL)).await.map_err(no_answer)?;
        subscribed.map_err(|error| super::cause(&error))?;
        loop {
            let asked = timeout(ANSWER_MAX, ask(&mut connection, &self.group.master_name)).await;
            heard.set(sentinel, Some(asked.map_err(no_answer)??));
            tokio::select! {
                _ = announced.changed() => {}
                () = sleep(ASK_INTERVAL) => {}
            }
        }
    }
}
