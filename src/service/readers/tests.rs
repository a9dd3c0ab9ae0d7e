//! Places of readers on a paused clock.

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;

const PLACES: usize = 32;

fn readers() -> Arc<Readers> {
    Readers::new(u32::try_from(PLACES).unwrap())
}

fn reader(id: u64) -> UserId {
    id.try_into().unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(2)
}

/// Takes all places of a reader.
fn fill(readers: &Arc<Readers>, id: u64) -> Vec<CallPlace> {
    std::iter::from_fn(|| readers.try_enter(reader(id), Weight::Light)).collect()
}

type Waiter = JoinHandle<Result<CallPlace, NoPlace>>;

/// Starts calls that wait.
async fn wait_for(readers: &Arc<Readers>, id: u64, weight: Weight, count: usize) -> Vec<Waiter> {
    let start = |_| {
        let readers = Arc::clone(readers);
        tokio::spawn(async move { readers.enter(reader(id), weight, later()).await })
    };
    let waiters = (0..count).map(start).collect();
    settle().await;
    waiters
}

/// Lets everything run that can.
async fn settle() {
    sleep(ms(1)).await;
}

fn finished(waiters: &[Waiter]) -> usize {
    waiters.iter().filter(|waiter| waiter.is_finished()).count()
}

#[tokio::test(start_paused = true)]
async fn a_call_beyond_the_places_waits_until_one_is_free() {
    let readers = readers();
    let mut places = fill(&readers, 1);
    assert_eq!(places.len(), PLACES);
    let mut waiters = wait_for(&readers, 1, Weight::Light, 3).await;
    assert_eq!(finished(&waiters), 0);
    for done in 1..=3 {
        drop(places.pop());
        settle().await;
        assert_eq!(finished(&waiters), done, "one call for each place, in order");
        assert!(waiters[done - 1].is_finished());
    }
    for waiter in &mut waiters {
        places.push(waiter.await.unwrap().unwrap());
    }
    assert!(readers.try_enter(reader(1), Weight::Light).is_none());
    // Nobody waits behind another reader.
    assert_eq!(fill(&readers, 2).len(), PLACES);
    drop(places);
    assert_eq!(fill(&readers, 1).len(), PLACES, "all are free again");
}

#[tokio::test(start_paused = true)]
async fn two_heavy_calls_run_and_those_that_wait_hold_up_no_light_call() {
    let readers = readers();
    let heavy = || readers.try_enter(reader(1), Weight::Heavy);
    let (first, second) = (heavy().unwrap(), heavy().unwrap());
    assert!(heavy().is_none());
    let mut waiting = wait_for(&readers, 1, Weight::Heavy, 100).await;
    assert_eq!(finished(&waiting), 0);
    let light = fill(&readers, 1);
    assert_eq!(light.len(), PLACES - 2);
    // A heavy place alone is not enough.
    drop(first);
    settle().await;
    assert_eq!(finished(&waiting), 1);
    drop(light);
    settle().await;
    assert_eq!(finished(&waiting), 1, "the second heavy call is still under way");
    drop(second);
    settle().await;
    assert_eq!(finished(&waiting), 2);
    drop(waiting.remove(0).await.unwrap().unwrap());
    settle().await;
    assert_eq!(finished(&waiting), 2, "one ended, the next began");
}

#[tokio::test(start_paused = true)]
async fn a_heavy_call_is_followed_by_a_pause_as_long_as_others_call() {
    let readers = readers();
    let heavy = |id| readers.try_enter(reader(id), Weight::Heavy);
    let at_work = async |id| {
        let places = (heavy(id).unwrap(), heavy(id).unwrap());
        sleep(ms(10)).await;
        drop(places);
    };
    // Alone, and beside a reader who only watches, there is none.
    let watch = readers.open_watch(reader(9)).unwrap();
    at_work(1).await;
    assert!(heavy(1).is_some());
    // Beside three others, each of them may have as much.
    let others: Vec<_> =
        (2..5).map(|id| readers.try_enter(reader(id), Weight::Light).unwrap()).collect();
    at_work(1).await;
    assert!(heavy(1).is_none() && heavy(6).is_some());
    assert!(readers.try_enter(reader(1), Weight::Light).is_some(), "light calls go on");
    sleep(ms(28)).await;
    assert!(heavy(1).is_none());
    sleep(ms(4)).await;
    assert!(heavy(1).is_some());
    // It is never long.
    let many: Vec<_> =
        (100..1000).map(|id| readers.try_enter(reader(id), Weight::Light).unwrap()).collect();
    at_work(1).await;
    let mut waiting = wait_for(&readers, 1, Weight::Heavy, 1).await;
    sleep(PAUSE_MAX).await;
    drop(waiting.remove(0).await.unwrap().unwrap());
    drop((watch, others, many));
    sleep(PAUSE_MAX + ms(2)).await;
    assert_eq!(readers.readers().len(), 0);
    assert_eq!(readers.calling.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn places_free_the_memory_of_their_reader() {
    let readers = readers();
    let places = fill(&readers, 1);
    let watch = readers.open_watch(reader(2)).unwrap();
    let waiters = wait_for(&readers, 1, Weight::Heavy, 5).await;
    assert_eq!(readers.readers().len(), 2);
    for waiter in &waiters {
        waiter.abort();
    }
    drop((places, watch));
    settle().await;
    assert_eq!(readers.readers().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_1025th_that_waits_is_refused_unless_the_queue_moves() {
    let readers = readers();
    let mut places = fill(&readers, 1);
    let mut waiters = wait_for(&readers, 1, Weight::Light, WAITING_MAX - 1).await;
    assert!(!readers.refuses(reader(1)), "one more may wait");
    waiters.extend(wait_for(&readers, 1, Weight::Light, 1).await);
    assert!(readers.refuses(reader(1)));
    let mut beyond = wait_for(&readers, 1, Weight::Light, BURST_MAX).await;
    let one_more = readers.enter(reader(1), Weight::Light, later());
    let one_more = tokio::time::timeout(Duration::ZERO, one_more).await.expect("at once");
    assert_eq!(one_more.unwrap_err(), NoPlace::TooMany);
    assert!(readers.refuses(reader(1)));
    assert!(!readers.refuses(reader(2)));
    // As long as it moves, all of them wait; each that gets a place lets the next one in.
    for _ in 0..5 {
        places.pop();
        sleep(ms(200)).await;
        assert_eq!(finished(&beyond), 0);
    }
    // It stands still, with five among the first 1,024.
    assert_eq!(finished(&waiters), 5);
    sleep(ms(990)).await;
    assert_eq!(finished(&beyond), BURST_MAX - 5);
    beyond.retain(|waiter| !waiter.is_finished());
    drop(places);
    settle().await;
    assert!(finished(&waiters) > 5, "those that wait are served later");
    for waiter in beyond {
        waiter.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_until_its_deadline_is_late() {
    let readers = readers();
    let places = fill(&readers, 1);
    let (mut waiters, began) = (wait_for(&readers, 1, Weight::Light, 2).await, Instant::now());
    let late = waiters.remove(0).await.unwrap();
    assert_eq!(late.unwrap_err(), NoPlace::Late);
    assert_eq!(began.elapsed(), ms(1999));
    drop(waiters);
    // One millisecond earlier it is served.
    let mut waiters = wait_for(&readers, 1, Weight::Light, 1).await;
    sleep(ms(1998)).await;
    drop(places);
    waiters.remove(0).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_1500_calls_that_are_worked_off_is_refused_nowhere() {
    let readers = readers();
    let calls: Vec<JoinHandle<bool>> = (0..1500)
        .map(|_| {
            let readers = Arc::clone(&readers);
            tokio::spawn(async move {
                let entered = match readers.try_enter(reader(1), Weight::Light) {
                    Some(place) => Ok(place),
                    None => readers.enter(reader(1), Weight::Light, later()).await,
                };
                // Redis takes two milliseconds for the calls under way.
                sleep(ms(2)).await;
                entered.is_ok()
            })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap());
    }
    assert_eq!(readers.readers().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_while_it_waits_leaves_the_queue() {
    let readers = readers();
    let mut places = fill(&readers, 1);
    let waiters = wait_for(&readers, 1, Weight::Light, WAITING_MAX + BURST_MAX).await;
    for waiter in &waiters[..BURST_MAX] {
        waiter.abort();
    }
    sleep(ms(1100)).await;
    let refused = finished(&waiters[BURST_MAX..]);
    assert_eq!(refused, 0, "those that were beyond the bound have moved up");
    drop(places.pop());
    settle().await;
    assert_eq!(finished(&waiters[BURST_MAX..]), 1, "the place goes to one that still waits");
}

#[tokio::test(start_paused = true)]
async fn a_reader_has_64_watches_at_most() {
    let readers = readers();
    let mut watches: Vec<_> =
        (0..WATCHES_MAX).map(|_| readers.open_watch(reader(1)).unwrap()).collect();
    assert!(readers.open_watch(reader(1)).is_none());
    assert!(readers.open_watch(reader(2)).is_some());
    assert_eq!(fill(&readers, 1).len(), PLACES, "calls have places of their own");
    watches.pop();
    watches.push(readers.open_watch(reader(1)).unwrap());
    assert!(readers.open_watch(reader(1)).is_none());
}
