//! A store at the end of a network: requests arrive late, also after their caller has given up, and answers are
//! lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::fake_store::FakeStore;
use crate::chance::watch;
use crate::domain::{EntryId, UserId, WebhookName};
use crate::simulation::Simulation;
use crate::store::StoreError;
use crate::store::relay::{
    DeadLetter, FeedEntry, FeedLag, Lease, Leased, NewEntries, RelayProcess, RelayStore,
    WebhookState,
};

/// What is between one process and the store.
pub(super) struct Network {
    simulation: Simulation,
    /// Longest delay of a request, and of an answer.
    pub(super) delay_ms: AtomicU64,
    /// Of a hundred requests or answers so many are lost.
    pub(super) lost_percent: AtomicU64,
    /// While it is true, nothing passes. What was sent arrives afterwards.
    pub(super) is_cut: watch::Sender<bool>,
    /// The ID of the process, once it has announced itself.
    pub(super) process: Mutex<String>,
}

/// The store as one process reaches it. Whoever looks at what is acknowledged looks at `acknowledge`.
pub(super) struct FarStore {
    pub(super) store: Arc<FakeStore>,
    pub(super) network: Arc<Network>,
    /// Called with each entry that is acknowledged.
    pub(super) note_acknowledged: Arc<dyn Fn(EntryId) + Send + Sync>,
}

impl Network {
    pub(super) fn new(simulation: &Simulation) -> Arc<Self> {
        let (lost_percent, process) = Default::default();
        let is_cut = watch::Sender::new(false);
        let delay_ms = AtomicU64::new(3);
        let simulation = simulation.clone();
        Arc::new(Self { simulation, delay_ms, lost_percent, is_cut, process })
    }

    pub(super) fn simulation(&self) -> &Simulation {
        &self.simulation
    }

    async fn pass(&self) -> Result<(), StoreError> {
        self.simulation.pause(self.delay_ms.load(Ordering::Relaxed)).await;
        let _ = self.is_cut.subscribe().wait_for(|is_cut| !is_cut).await;
        if self.simulation.chance(self.lost_percent.load(Ordering::Relaxed)) {
            return Err(StoreError::unavailable("it is lost on its way"));
        }
        Ok(())
    }
}

impl FarStore {
    /// Runs a request, which arrives and is run even if the caller has given up.
    async fn send<T, F>(
        &self,
        request: impl FnOnce(Arc<FakeStore>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let (store, network) = (Arc::clone(&self.store), Arc::clone(&self.network));
        let sent = tokio::spawn(async move {
            network.pass().await?;
            let answer = request(store).await;
            network.pass().await?;
            answer
        });
        sent.await.map_err(StoreError::unavailable)?
    }
}

#[async_trait::async_trait]
impl RelayStore for FarStore {
    fn partitions(&self) -> usize {
        self.store.partitions
    }

    async fn announce(
        &self,
        process: &RelayProcess,
        ttl: Duration,
    ) -> Result<Vec<RelayProcess>, StoreError> {
        let process = process.clone();
        self.network.process.lock().unwrap().clone_from(&process.id);
        self.send(move |store| async move { store.announce(&process, ttl).await }).await
    }

    async fn withdraw(&self, process: &str) -> Result<(), StoreError> {
        let process = process.to_owned();
        self.send(move |store| async move { store.withdraw(&process).await }).await
    }

    async fn acquire(
        &self,
        lease: &Lease,
        ttl: Duration,
        begin: EntryId,
    ) -> Result<Leased<EntryId>, StoreError> {
        let lease = lease.clone();
        self.send(move |store| async move { store.acquire(&lease, ttl, begin).await }).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Leased<()>, StoreError> {
        let lease = lease.clone();
        self.send(move |store| async move { store.renew(&lease, ttl).await }).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let lease = lease.clone();
        self.send(move |store| async move { store.release(&lease).await }).await
    }

    async fn pending(
        &self,
        lease: &Lease,
        after: EntryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Leased<Vec<FeedEntry>>, StoreError> {
        let lease = lease.clone();
        self.send(move |store| async move { store.pending(&lease, after, limit, max_bytes).await })
            .await
    }

    async fn new_entries(
        &self,
        lease: &Lease,
        after: EntryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Leased<NewEntries>, StoreError> {
        let lease = lease.clone();
        let read = move |store: Arc<FakeStore>| async move {
            store.new_entries(&lease, after, limit, max_bytes).await
        };
        self.send(read).await
    }

    async fn acknowledge(
        &self,
        lease: &Lease,
        entries: &[EntryId],
    ) -> Result<Leased<()>, StoreError> {
        let (lease, entries) = (lease.clone(), entries.to_vec());
        let note = Arc::clone(&self.note_acknowledged);
        let acknowledge = move |store: Arc<FakeStore>| async move {
            let acknowledged = store.acknowledge(&lease, &entries).await;
            if let Ok(Leased::Held(())) = acknowledged {
                for entry in entries {
                    note(entry);
                }
            }
            acknowledged
        };
        self.send(acknowledge).await
    }

    async fn note_attempts(
        &self,
        lease: &Lease,
        attempts: &[(EntryId, u32)],
    ) -> Result<Leased<()>, StoreError> {
        let (lease, attempts) = (lease.clone(), attempts.to_vec());
        self.send(move |store| async move { store.note_attempts(&lease, &attempts).await }).await
    }

    async fn lags(
        &self,
        partition: usize,
        webhooks: &[WebhookName],
    ) -> Result<Vec<FeedLag>, StoreError> {
        let webhooks = webhooks.to_vec();
        self.send(move |store| async move { store.lags(partition, &webhooks).await }).await
    }

    async fn are_subscribed(
        &self,
        webhook: &WebhookName,
        users: &[UserId],
    ) -> Result<Vec<bool>, StoreError> {
        let (webhook, users) = (webhook.clone(), users.to_vec());
        self.send(move |store| async move { store.are_subscribed(&webhook, &users).await }).await
    }

    async fn add_dead_letter(
        &self,
        webhook: &WebhookName,
        letter: &DeadLetter,
        maxlen: u64,
    ) -> Result<(), StoreError> {
        let (webhook, letter) = (webhook.clone(), letter.clone());
        self.send(
            move |store| async move { store.add_dead_letter(&webhook, &letter, maxlen).await },
        )
        .await
    }

    async fn count_dead_letters(&self, webhook: &WebhookName) -> Result<u64, StoreError> {
        let webhook = webhook.clone();
        self.send(move |store| async move { store.count_dead_letters(&webhook).await }).await
    }

    async fn state(&self, webhook: &WebhookName) -> Result<WebhookState, StoreError> {
        let webhook = webhook.clone();
        self.send(move |store| async move { store.state(&webhook).await }).await
    }

    async fn set_state(
        &self,
        webhook: &WebhookName,
        state: &WebhookState,
    ) -> Result<(), StoreError> {
        let (webhook, state) = (webhook.clone(), state.clone());
        self.send(move |store| async move { store.set_state(&webhook, &state).await }).await
    }

    async fn begin_check(&self, webhook: &WebhookName, ttl: Duration) -> Result<bool, StoreError> {
        let webhook = webhook.clone();
        self.send(move |store| async move { store.begin_check(&webhook, ttl).await }).await
    }

    async fn end_check(&self, webhook: &WebhookName, pause: Duration) -> Result<(), StoreError> {
        let webhook = webhook.clone();
        self.send(move |store| async move { store.end_check(&webhook, pause).await }).await
    }
}
