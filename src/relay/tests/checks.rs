//! Checks and pauses, over time and over processes.

use super::*;
use crate::store::relay::{Failing, Verification, WebhookState};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Returns the state after a check that passed so long before the day is over.
fn verified_until(left: Duration) -> WebhookState {
    let at_ms = START_MS - DAY_MS + u64::try_from(left.as_millis()).unwrap();
    let verified = Some(Verification { at_ms, settings: "s".to_owned() });
    WebhookState { verified, ..WebhookState::default() }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_before_a_check_passed() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    receiver.check_results((0..5).map(|_| Check::Failed("no answer".to_owned())));
    let process = Process::start(&store, &[receiver.webhook("w", "s")]);
    let entry = store.publish(0, 1, 2);
    sleep(seconds(2)).await;
    assert_eq!(receiver.attempts().len(), 0);
    assert_eq!(process.warnings(), ["webhook w: the check fails: no answer"]);
    within(seconds(60), "it arrives", || receiver.delivered() == [entry]).await;
    assert_eq!(receiver.checks(), 6);
    sleep(seconds(2)).await;
    assert_eq!(process.warnings().len(), 0);
    let state = store.webhook_state("w");
    assert_eq!(state.verified.unwrap().settings, "s");
    assert_eq!((state.failing, state.paused), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_check_is_made_every_day_by_one_of_the_processes() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    let webhooks = [receiver.webhook("w", "s")];
    store.put_webhook_state("w", verified_until(seconds(60)));
    let _processes: Vec<_> = (0..3).map(|_| Process::start(&store, &webhooks)).collect();
    sleep(seconds(59)).await;
    assert_eq!(receiver.checks(), 0);
    sleep(seconds(600)).await;
    assert_eq!(receiver.checks(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_check_pauses_until_someone_checks_or_the_settings_change() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    receiver.check_results([Check::Refused("a wrong token".to_owned())]);
    let process = Process::start(&store, &[receiver.webhook("w", "s")]);
    let entry = store.publish(0, 1, 2);
    sleep(seconds(3600)).await;
    assert_eq!((receiver.checks(), receiver.attempts().len()), (1, 0));
    let warnings = process.warnings();
    assert_eq!(warnings, ["webhook w is paused: the check was refused: a wrong token"]);
    process.set_webhooks(&[receiver.webhook("w", "s2")]);
    within(seconds(2), "it arrives", || receiver.delivered() == [entry]).await;
    assert_eq!(receiver.checks(), 2);
}

#[tokio::test(start_paused = true)]
async fn failing_checks_pause_after_the_grace_and_a_later_one_ends_that() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    store.put_webhook_state("w", verified_until(seconds(10)));
    receiver.check_results((0..20).map(|_| Check::Failed("no answer".to_owned())));
    let config = RelayConfig { check_grace: seconds(600), ..CONFIG };
    let process = Process::start_with(&store, &[receiver.webhook("w", "s")], config);
    sleep(seconds(500)).await;
    // It goes on while the checks fail, after 1, 2, 4, … 32 and then each 60 s.
    let entry = store.publish(0, 1, 2);
    within(seconds(1), "it arrives", || receiver.delivered() == [entry]).await;
    assert!((12..=16).contains(&receiver.checks()), "{}", receiver.checks());
    sleep(seconds(180)).await;
    let pause = store.webhook_state("w").paused.unwrap();
    assert!(
        pause.is_passing && pause.reason.starts_with("checks have failed for 10m"),
        "{pause:?}"
    );
    let second = store.publish(0, 1, 2);
    sleep(seconds(60)).await;
    assert_eq!(receiver.attempts().len(), 1);
    assert!(process.warnings()[0].starts_with("webhook w is paused: checks have failed for 10m"));
    within(seconds(600), "a check passes", || store.webhook_state("w").paused.is_none()).await;
    within(seconds(2), "it arrives", || receiver.delivered() == [entry, second]).await;
}

#[tokio::test(start_paused = true)]
async fn the_grace_of_new_settings_begins_with_them() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    receiver.check_results((0..100).map(|_| Check::Failed("no answer".to_owned())));
    let config = RelayConfig { check_grace: seconds(600), ..CONFIG };
    let process = Process::start_with(&store, &[receiver.webhook("w", "s")], config);
    sleep(seconds(400)).await;
    process.set_webhooks(&[receiver.webhook("w", "s2")]);
    sleep(seconds(400)).await;
    assert_eq!(store.webhook_state("w").paused, None);
    sleep(seconds(400)).await;
    assert_eq!(store.webhook_state("w").paused.unwrap().settings, "s2");
}

#[tokio::test(start_paused = true)]
async fn another_process_verifies_pauses_and_resumes() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    let open = verified_until(seconds(3600));
    store.put_webhook_state("w", open.clone());
    let _process = Process::start(&store, &[receiver.webhook("w", "s")]);
    sleep(seconds(5)).await;
    assert_eq!(receiver.checks(), 0);
    let pause = crate::store::relay::Pause {
        at_ms: START_MS,
        reason: "410".to_owned(),
        is_passing: false,
        settings: "s".to_owned(),
    };
    store.put_webhook_state("w", WebhookState { paused: Some(pause), ..open.clone() });
    sleep(ms(1100)).await;
    let entry = store.publish(0, 1, 2);
    sleep(seconds(30)).await;
    assert_eq!(receiver.attempts().len(), 0);
    store.put_webhook_state("w", open);
    within(ms(1100), "it arrives", || receiver.delivered() == [entry]).await;
    assert_eq!(receiver.checks(), 0);
}

#[tokio::test(start_paused = true)]
async fn deliveries_go_on_while_the_state_cannot_be_read() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.store.set_failing("state", true);
    sleep(seconds(10)).await;
    let entry = setup.store.publish(0, 1, 2);
    within(ms(10), "it arrives", || setup.receiver.delivered() == [entry]).await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_is_made_by_one_process_until_it_ends() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    let webhooks = [receiver.webhook("w", "s")];
    receiver.delay_checks(ms(3000));
    receiver.check_results((0..2).map(|_| Check::Failed("no answer".to_owned())));
    let _processes: Vec<_> = (0..3).map(|_| Process::start(&store, &webhooks)).collect();
    sleep(ms(2900)).await;
    assert_eq!(receiver.checks(), 1);
    // The next one begins at most 1 s and a look after its end.
    sleep(ms(2200)).await;
    assert_eq!(receiver.checks(), 2);
}

#[tokio::test(start_paused = true)]
async fn checks_of_another_file_say_nothing_of_this_one() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    let process = Process::start(&store, &[receiver.webhook("w", "s")]);
    sleep(seconds(3)).await;
    assert_eq!(receiver.checks(), 1);
    let failing =
        Failing { since_ms: START_MS, settings: "other".to_owned(), cause: "no".to_owned() };
    let verified = Verification { at_ms: START_MS - 1, settings: "other".to_owned() };
    let (verified, failing) = (Some(verified), Some(failing));
    store.put_webhook_state("w", WebhookState { verified, failing, paused: None });
    sleep(seconds(3)).await;
    assert_eq!(process.warnings().len(), 0);
    let entry = store.publish(0, 1, 2);
    within(seconds(1), "it arrives", || receiver.delivered() == [entry]).await;
    assert_eq!(receiver.checks(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_of_another_file_do_not_use_up_the_grace() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    let failing = Failing { since_ms: 5, settings: "other".to_owned(), cause: "no".to_owned() };
    store.put_webhook_state("w", WebhookState { failing: Some(failing), ..Default::default() });
    receiver.check_results((0..100).map(|_| Check::Failed("no answer".to_owned())));
    let config = RelayConfig { check_grace: seconds(600), ..CONFIG };
    let _process = Process::start_with(&store, &[receiver.webhook("w", "s")], config);
    sleep(seconds(400)).await;
    assert_eq!(store.webhook_state("w").paused, None);
    sleep(seconds(400)).await;
    assert_eq!(store.webhook_state("w").paused.unwrap().settings, "s");
}
