//! Calls at even intervals, whether or not earlier ones have been answered. Latencies count from when a
//! call was due, so that waiting behind a slow one counts, and so does a generator that is late: how
//! late it was is measured too.
//!
//! The generator has a thread of its own, which goes before server and Redis where the system allows
//! it, as if it were on a machine of its own. Its timer is a timerfd: a runtime's own has whole
//! milliseconds, and `nanosleep` may be 50 µs late.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use crate::load::{Calls, Connections, micros, permille};

/// The least time between two looks at what is due. Above 20,000 calls a second, several are due then.
const TICK: Duration = Duration::from_micros(50);

/// A call that is sent this long after it was due is late.
pub(crate) const LATE_US: u32 = 200;

/// Time until the first call is due.
const LEAD: Duration = Duration::from_millis(10);

/// Tasks between two looks at the sockets and the timer. tokio's default of 61 can take 0.3 ms.
const EVENT_INTERVAL: u32 = 8;

/// The highest priority of a thread that is not a real-time one.
const HIGHEST_PRIORITY: i32 = -20;

/// When the calls of a pace are due.
#[derive(Clone, Copy)]
pub(crate) struct Schedule {
    began: Instant,
    per_second: f64,
    /// The number of the first call.
    pub(crate) first: u64,
}

impl Schedule {
    pub(crate) fn due(&self, number: u64) -> Instant {
        let passed = number.saturating_sub(self.first) as f64 / self.per_second;
        self.began + Duration::from_secs_f64(passed)
    }
}

/// The figures of evenly paced calls.
pub(crate) struct Paced {
    /// The time from when each call was due until its end, sorted.
    pub(crate) latencies_us: Vec<u32>,
    /// The time from when each call was due until it was sent, sorted.
    pub(crate) lateness_us: Vec<u32>,
}

impl Paced {
    /// The latencies of p50, p99 and p99.9 in µs.
    pub(crate) fn percentiles_us(&self) -> [f64; 3] {
        [500, 990, 999].map(|of| permille(&self.latencies_us, of))
    }

    /// The share of calls that were late.
    pub(crate) fn late(&self) -> f64 {
        let on_time = self.lateness_us.partition_point(|&us| us <= LATE_US);
        1.0 - on_time as f64 / self.lateness_us.len() as f64
    }
}

/// Runs a generator on a thread and a runtime of its own.
pub(crate) async fn generate<T, F>(generator: F) -> T
where
    T: Send + 'static,
    F: AsyncFnOnce() -> T + Send + 'static,
{
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Only root may; without it, more calls are late, and the report says how many.
        let _ = rustix::process::setpriority_process(None, HIGHEST_PRIORITY);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().event_interval(EVENT_INTERVAL).build().unwrap();
        let _ = done.send(runtime.block_on(generator()));
    });
    result.await.expect("the generator does not panic")
}

/// Makes this many calls a second for this long, on connections in turn. `tell` gets their schedule
/// before the first is due.
pub(crate) async fn send(
    connections: &Connections,
    calls: &Arc<Calls>,
    per_second: f64,
    lasts: Duration,
    tell: impl FnOnce(Schedule),
) -> Paced {
    let first = calls.next.load(Ordering::Relaxed);
    let schedule = Schedule { began: Instant::now() + LEAD, per_second, first };
    tell(schedule);
    let end = first + (per_second * lasts.as_secs_f64()) as u64;
    let figures = Arc::new(Mutex::new(Vec::with_capacity((end - first) as usize)));
    let timer = Timer::new();
    let mut working = JoinSet::new();
    while calls.next.load(Ordering::Relaxed) < end {
        let next = schedule.due(calls.next.load(Ordering::Relaxed));
        timer.wait(next.max(Instant::now() + TICK)).await;
        // Finished tasks would take memory.
        while let Some(done) = working.try_join_next() {
            done.unwrap();
        }
        let now = Instant::now();
        while calls.next.load(Ordering::Relaxed) < end {
            let due = schedule.due(calls.next.load(Ordering::Relaxed));
            if due > now {
                break;
            }
            let number = calls.next_number();
            let mut sender = connections.sender(number as usize);
            let (calls, figures) = (Arc::clone(calls), Arc::clone(&figures));
            working.spawn(async move {
                let lateness_us = micros(due.elapsed());
                sender.call(&calls, number).await;
                figures.lock().unwrap().push((micros(due.elapsed()), lateness_us));
            });
        }
    }
    working.join_all().await;
    let figures = std::mem::take(&mut *figures.lock().unwrap());
    calls.answered.fetch_add(figures.len() as u64, Ordering::Relaxed);
    let (mut latencies_us, mut lateness_us): (Vec<_>, Vec<_>) = figures.into_iter().unzip();
    latencies_us.sort_unstable();
    lateness_us.sort_unstable();
    Paced { latencies_us, lateness_us }
}

struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    #[expect(deprecated, reason = "sound for a descriptor that is owned; `register` is unsafe")]
    fn new() -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).unwrap();
        Self(AsyncFd::new(timer).unwrap())
    }

    async fn wait(&self, until: Instant) {
        let wait = until.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return tokio::task::yield_now().await;
        }
        let [it_interval, it_value] = [Duration::ZERO, wait].map(|time| time.try_into().unwrap());
        // This also clears the last expiration, so nothing has to be read.
        let timer = Itimerspec { it_interval, it_value };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &timer).unwrap();
        self.0.readable().await.unwrap().clear_ready();
    }
}
