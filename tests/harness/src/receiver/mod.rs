//! A webhook's receiver, written to the published rules alone: nothing of the service's code is in it. It
//! verifies whatever arrives, keeps a record, and answers as a test wants.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

mod http;
mod replies;
mod rules;
mod tls;

use self::http::{Request, Stream};
pub use self::replies::Reply;
pub use self::rules::{Lane, Secrets, twitter_signature};
use self::rules::{check_delivery, check_token};
use crate::certificates::{Authority, Certificate};
use crate::{eventually, free_port};

/// The consumer secret of receivers, unless a test sets others.
pub const CONSUMER_SECRET: &str = "the consumer secret of the tests";

/// Time to close or to open the port.
const SWITCH_LIMIT: Duration = Duration::from_secs(5);

/// A delivery that arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When it was complete.
    pub at: Instant,
    /// Its `webhook-id`.
    pub id: String,
    /// The partition in the ID.
    pub partition: usize,
    /// The stream entry's ID in it.
    pub entry: (u64, u64),
    /// Who it is from and for.
    pub lane: Lane,
    /// The event's `last_read_event_id`.
    pub message: u64,
    /// How often it had arrived before.
    pub nth: u32,
    /// All headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// The complete answer that it was given, if any: its status and when that was.
    pub answer: Option<(u16, Instant)>,
}

impl Arrival {
    /// Whether it was answered 2xx.
    pub fn is_accepted(&self) -> bool {
        self.answer.is_some_and(|(status, _)| (200..300).contains(&status))
    }
}

/// How a receiver answers a check.
#[derive(Clone, Debug)]
pub enum CheckReply {
    /// As promised.
    Right,
    /// As promised, after this time.
    Late(Duration),
    /// By another secret.
    By(Vec<u8>),
    /// With another answer.
    Other(Reply),
}

type Behaviour = Arc<dyn Fn(&Arrival) -> Reply + Send + Sync>;

/// A receiver on its own thread, which listens on a port of 127.0.0.1. It is ended when it is dropped.
pub struct Receiver {
    /// The port.
    pub port: u16,
    scheme: &'static str,
    shared: Arc<Shared>,
    is_up: watch::Sender<bool>,
    is_open: watch::Receiver<bool>,
}

struct Shared {
    secrets: Mutex<Secrets>,
    behaviour: Mutex<Behaviour>,
    check: Mutex<CheckReply>,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    arrivals: Vec<Arrival>,
    /// How often each ID arrived, and the number of its first arrival.
    counts: HashMap<String, (u32, usize)>,
    /// The IDs that were answered 2xx.
    accepted: HashSet<String>,
    /// Conversations with a delivery that is not answered, and how often another one arrived meanwhile.
    open: HashMap<Lane, u32>,
    overlaps: u32,
    checks: Vec<Instant>,
    connections: u32,
    problems: Vec<String>,
}

impl Receiver {
    /// Starts one that speaks plain HTTP and accepts everything.
    pub async fn start() -> Self {
        Self::with(None).await
    }

    /// Starts one behind TLS. With a CA it wants a certificate of the client.
    pub async fn over_tls(certificate: &Certificate, client_ca: Option<&Authority>) -> Self {
        Self::with(Some(tls::config(certificate, client_ca))).await
    }

    async fn with(tls: Option<Arc<ServerConfig>>) -> Self {
        let port = free_port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            secrets: Mutex::new(Secrets::one(CONSUMER_SECRET.as_bytes())),
            behaviour: Mutex::new(Arc::new(|_| Reply::Status(200))),
            check: Mutex::new(CheckReply::Right),
            record: Mutex::default(),
        });
        let (is_up, up) = watch::channel(true);
        let (open, is_open) = watch::channel(false);
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(port, tls.map(TlsAcceptor::from), up, open, of_thread));
        });
        let receiver = Self { port, scheme, shared, is_up, is_open };
        receiver.wait_until(true).await;
        receiver
    }

    /// The URL of the webhook, by address.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}/hook", self.scheme, self.port)
    }

    /// Answers every delivery like this from now on.
    pub fn answer(&self, reply: Reply) {
        self.answer_by(move |_| reply.clone());
    }

    /// Answers every delivery as this function says from now on.
    pub fn answer_by(&self, behaviour: impl Fn(&Arrival) -> Reply + Send + Sync + 'static) {
        *self.shared.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    /// Answers checks like this from now on.
    pub fn answer_checks(&self, check: CheckReply) {
        *self.shared.check.lock().unwrap() = check;
    }

    /// Verifies with these secrets from now on.
    pub fn know(&self, secrets: Secrets) {
        *self.shared.secrets.lock().unwrap() = secrets;
    }

    /// Closes the port and all connections.
    pub async fn go_down(&self) {
        self.is_up.send_replace(false);
        self.wait_until(false).await;
    }

    /// Opens the port again.
    pub async fn come_up(&self) {
        self.is_up.send_replace(true);
        self.wait_until(true).await;
    }

    async fn wait_until(&self, open: bool) {
        let mut is_open = self.is_open.clone();
        let changed = is_open.wait_for(|is_open| *is_open == open);
        tokio::time::timeout(SWITCH_LIMIT, changed).await.expect("in time").unwrap();
    }

    fn record<T>(&self, read: impl FnOnce(&Record) -> T) -> T {
        read(&self.shared.record.lock().unwrap())
    }

    /// All deliveries so far, in the order in which they arrived.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.record(|record| record.arrivals.clone())
    }

    /// Those that were answered 2xx.
    pub fn accepted(&self) -> Vec<Arrival> {
        let mut arrivals = self.arrivals();
        arrivals.retain(Arrival::is_accepted);
        arrivals
    }

    /// How often something arrived.
    pub fn attempts(&self) -> usize {
        self.record(|record| record.arrivals.len())
    }

    /// The IDs of deliveries that were answered 2xx.
    pub fn accepted_ids(&self) -> HashSet<String> {
        self.record(|record| record.accepted.clone())
    }

    /// How many those are.
    pub fn accepted_count(&self) -> usize {
        self.record(|record| record.accepted.len())
    }

    /// How often a delivery arrived while another of the same conversation was not answered.
    pub fn overlaps(&self) -> u32 {
        self.record(|record| record.overlaps)
    }

    /// When checks arrived.
    pub fn checks(&self) -> Vec<Instant> {
        self.record(|record| record.checks.clone())
    }

    /// How many connections were made.
    pub fn connections(&self) -> u32 {
        self.record(|record| record.connections)
    }

    /// Rules that were broken.
    pub fn problems(&self) -> Vec<String> {
        self.record(|record| record.problems.clone())
    }

    /// Waits until so many different deliveries were answered 2xx, and returns all arrivals.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> Vec<Arrival> {
        let what = || format!("{count} deliveries are accepted, {} are", self.accepted_count());
        let began = Instant::now();
        while self.accepted_count() < count {
            assert!(began.elapsed() < limit, "not within {limit:?}: {}", what());
            sleep(Duration::from_millis(10)).await;
        }
        self.arrivals()
    }

    /// Waits until so many attempts to deliver have arrived.
    pub async fn wait_for_attempts(&self, count: usize, limit: Duration) -> Vec<Arrival> {
        eventually(&format!("{count} attempts"), limit, async || {
            (self.attempts() >= count).then(|| self.arrivals())
        })
        .await
    }

    /// Waits until a check has arrived that is later than so many.
    pub async fn wait_for_checks(&self, count: usize, limit: Duration) {
        eventually(&format!("{count} checks"), limit, async || {
            (self.checks().len() >= count).then_some(())
        })
        .await;
    }

    /// Asserts that everything that arrived was as promised, and in order for each conversation: nothing
    /// arrives before what is ahead of it was accepted. Returns the number of doubles: deliveries that
    /// arrived again after they had been accepted.
    #[track_caller]
    pub fn assert_in_order(&self) -> usize {
        // The entries of each conversation, with the time when they were accepted.
        type Entries = Vec<((u64, u64), Option<Instant>)>;
        assert!(self.problems().is_empty(), "{:#?}", self.problems());
        let mut seen: HashMap<(usize, Lane), Entries> = HashMap::new();
        let mut doubles = 0;
        for arrival in self.arrivals() {
            let accepted = arrival.answer.map(|(_, at)| at).filter(|_| arrival.is_accepted());
            let entries = seen.entry((arrival.partition, arrival.lane)).or_default();
            if let Some(known) = entries.iter_mut().find(|(entry, _)| *entry == arrival.entry) {
                doubles += usize::from(known.1.is_some_and(|at| at <= arrival.at));
                known.1 = known.1.or(accepted);
                continue;
            }
            if let Some((last, accepted)) = entries.last() {
                assert!(*last < arrival.entry, "{last:?} was before {arrival:?}");
                let is_accepted = accepted.is_some_and(|at| at <= arrival.at);
                assert!(is_accepted, "{last:?} was not accepted before {arrival:?}");
            }
            entries.push((arrival.entry, accepted));
        }
        doubles
    }
}

/// Checks that what arrived was as promised.
impl Drop for Receiver {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let problems = self.problems();
            assert!(problems.is_empty(), "rules of a delivery are broken: {problems:#?}");
        }
    }
}

/// Listens while it is to be up, until its owner is gone.
async fn run(
    port: u16,
    tls: Option<TlsAcceptor>,
    mut up: watch::Receiver<bool>,
    open: watch::Sender<bool>,
    shared: Arc<Shared>,
) {
    while up.wait_for(|is_up| *is_up).await.is_ok() {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        open.send_replace(true);
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                stream = listener.accept() => {
                    let (stream, _) = stream.unwrap();
                    shared.record.lock().unwrap().connections += 1;
                    connections.spawn(connection(stream, tls.clone(), Arc::clone(&shared)));
                }
                Some(_) = connections.join_next() => {}
                is_down = up.wait_for(|is_up| !*is_up) => {
                    if is_down.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
        drop(listener);
        connections.shutdown().await;
        shared.record.lock().unwrap().open.clear();
        open.send_replace(false);
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap();
    match tls {
        None => serve(stream, &shared).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                serve(stream, &shared).await;
            }
        }
    }
}

async fn serve(mut stream: impl Stream, shared: &Shared) {
    let mut buffer = Vec::new();
    loop {
        let request = match Request::read(&mut stream, &mut buffer).await {
            Ok(Some(request)) => request,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                shared.record.lock().unwrap().problems.push(error.to_string());
                return;
            }
            Ok(None) | Err(_) => return,
        };
        let is_last = request.header("connection") == Some("close");
        if !matches!(shared.answer(&request, &mut stream).await, Ok(true)) || is_last {
            return;
        }
    }
}

impl Shared {
    async fn answer(&self, request: &Request, stream: &mut impl Stream) -> std::io::Result<bool> {
        if request.method == "GET" {
            if let CheckReply::Late(delay) = self.note_check() {
                sleep(delay).await;
            }
            return self.answer_check(request).write(stream).await;
        }
        let facts = check_delivery(request, &self.secrets.lock().unwrap());
        let facts = match facts {
            Ok(facts) => facts,
            Err(problem) => {
                self.record.lock().unwrap().problems.push(problem);
                return Reply::Status(400).write(stream).await;
            }
        };
        let (index, arrival) = self.note(request, facts);
        let lane = arrival.lane;
        let behaviour = Arc::clone(&self.behaviour.lock().unwrap());
        let mut reply = behaviour(&arrival);
        if let Reply::After(delay, later) = reply {
            sleep(delay).await;
            reply = *later;
        }
        if let Some(status) = reply.status() {
            self.note_answer(index, status);
        }
        let is_open = reply.write(stream).await;
        let mut record = self.record.lock().unwrap();
        if reply.status().is_none()
            && let Some(open) = record.open.get_mut(&lane)
        {
            *open = open.saturating_sub(1);
        }
        is_open
    }

    /// Records a check, and returns how it is answered.
    fn note_check(&self) -> CheckReply {
        self.record.lock().unwrap().checks.push(Instant::now());
        self.check.lock().unwrap().clone()
    }

    fn answer_check(&self, request: &Request) -> Reply {
        let token = check_token(request);
        let mut record = self.record.lock().unwrap();
        let token = match token {
            Ok(token) => token,
            Err(problem) => {
                record.problems.push(problem);
                return Reply::Status(400);
            }
        };
        let secret = match self.check.lock().unwrap().clone() {
            CheckReply::Right | CheckReply::Late(_) => {
                self.secrets.lock().unwrap().consumer[0].clone()
            }
            CheckReply::By(secret) => secret,
            CheckReply::Other(reply) => return reply,
        };
        let answer = twitter_signature(&secret, token.as_bytes());
        let body = serde_json::json!({ "response_token": answer }).to_string();
        Reply::With(200, vec!["content-type: application/json".to_owned()], body.into_bytes())
    }

    /// Records a delivery, and returns its number.
    fn note(&self, request: &Request, facts: rules::Facts) -> (usize, Arrival) {
        let mut record = self.record.lock().unwrap();
        let index = record.arrivals.len();
        let (count, first) = record.counts.entry(facts.id.clone()).or_insert((0, index));
        let (nth, first) = (*count, *first);
        *count += 1;
        if record.arrivals.get(first).is_some_and(|first| first.body != request.body) {
            record.problems.push(format!("{} has another body than before", facts.id));
        }
        let open = record.open.entry(facts.lane).or_default();
        *open += 1;
        let is_overlap = *open > 1;
        record.overlaps += u32::from(is_overlap);
        let arrival = Arrival {
            at: Instant::now(),
            id: facts.id,
            partition: facts.partition,
            entry: facts.entry,
            lane: facts.lane,
            message: facts.message,
            nth,
            headers: request.headers.iter().cloned().collect(),
            body: request.body.clone(),
            answer: None,
        };
        record.arrivals.push(arrival.clone());
        (index, arrival)
    }

    fn note_answer(&self, index: usize, status: u16) {
        let mut record = self.record.lock().unwrap();
        let arrival = &mut record.arrivals[index];
        arrival.answer = Some((status, Instant::now()));
        let (id, lane) = (arrival.id.clone(), arrival.lane);
        if (200..300).contains(&status) {
            record.accepted.insert(id);
        }
        if let Some(open) = record.open.get_mut(&lane) {
            *open = open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use aws_lc_rs::hmac;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::events::payload;
    use crate::server::http1;

    /// Sends a delivery as it is promised, and returns the status.
    async fn send(receiver: &Receiver, entry: u64, message: u64) -> String {
        let body = format!(r#"{{"for_user_id":"2",{}"#, &payload(1, 2, message)[1..]);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let key = hmac::Key::new(hmac::HMAC_SHA256, CONSUMER_SECRET.as_bytes());
        let mac = |text: &str| STANDARD.encode(hmac::sign(&key, text.as_bytes()));
        let id = format!("0-{entry}-0-2");
        let request = format!(
            "POST /hook HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             x-twitter-webhooks-signature: sha256={}\r\nwebhook-id: {id}\r\n\
             webhook-timestamp: {now}\r\nwebhook-signature: v1,{}\r\n\
             content-length: {}\r\n\r\n{body}",
            mac(&body),
            mac(&format!("{id}.{now}.{body}")),
            body.len(),
        );
        let address = format!("127.0.0.1:{}", receiver.port);
        let (head, _) = http1(&address, &request).await.unwrap();
        head.split(' ').nth(1).unwrap().to_owned()
    }

    fn is_in_order(receiver: &Receiver) -> Option<usize> {
        catch_unwind(AssertUnwindSafe(|| receiver.assert_in_order())).ok()
    }

    #[tokio::test]
    async fn order_and_doubles_are_noticed() {
        let receiver = Receiver::start().await;
        receiver.answer_by(|arrival| Reply::Status(if arrival.message == 3 { 500 } else { 200 }));
        assert_eq!(send(&receiver, 1, 1).await, "200");
        assert_eq!(is_in_order(&receiver), Some(0));
        send(&receiver, 1, 1).await;
        assert_eq!(is_in_order(&receiver), Some(1));
        assert_eq!(send(&receiver, 3, 3).await, "500");
        assert_eq!(is_in_order(&receiver), Some(1));
        send(&receiver, 4, 4).await;
        assert_eq!(is_in_order(&receiver), None, "the one before was not accepted");

        let receiver = Receiver::start().await;
        send(&receiver, 2, 2).await;
        send(&receiver, 1, 1).await;
        assert_eq!(is_in_order(&receiver), None);
        assert_eq!((receiver.accepted_count(), receiver.attempts()), (2, 2));
    }
}
