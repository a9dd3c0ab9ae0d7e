//! Retries, dead letters, the circuit and the throttle.

use super::*;

/// Returns the letters as reason, attempts, last status.
fn letters(setup: &Setup) -> Vec<(String, u32, Option<u16>)> {
    let letters = setup.store.letters().into_iter();
    letters.map(|letter| (letter.reason, letter.attempts, letter.last_status)).collect()
}

#[tokio::test(start_paused = true)]
async fn entries_without_an_event_become_dead_letters_with_their_reason() {
    let setup = Setup::new();
    let nothing = EntryContent::Stored { payload: None, traceparent: None };
    let entries = [
        setup.store.add(0, nothing),
        setup.store.add_payload(&b"\xff\xfe"[..]),
        setup.store.add_payload("{\"direct_message_mark_read_events\":["),
        setup.store.add_payload("[[]]"),
        setup.store.add(0, EntryContent::TooLarge(9_000_000)),
        setup.store.publish(0, 1, 2),
    ];
    within(seconds(3), "all are done", || setup.store.acknowledged().len() == 6).await;
    assert_eq!(setup.receiver.delivered(), [entries[5]]);
    let letters = setup.store.letters();
    let reasons: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["no_payload", "not_utf8", "invalid_payload", "invalid_payload", "too_large"]
    );
    for (letter, entry) in letters.iter().zip(entries) {
        assert!(matches!(letter.id, LetterId::Entry(0, id) if id.ms == entry), "{letter:?}");
        assert_eq!(letter.attempts, 0);
    }
    assert_eq!(letters[1].payload.as_deref(), Some(&b"\xff\xfe"[..]));
}

#[tokio::test(start_paused = true)]
async fn an_event_with_a_for_user_id_of_its_own_becomes_a_dead_letter() {
    let setup = Setup::new();
    let event = r#"{"direct_message_mark_read_events":[{"created_timestamp":"9","sender_id":"1","last_read_event_id":"5","target":{"recipient_id":"2"}}],"for_user_id":"3"}"#;
    let entries = [setup.store.add_payload(event), setup.store.publish(0, 1, 2)];
    within(seconds(3), "all are done", || setup.store.acknowledged() == entries).await;
    assert_eq!(setup.receiver.delivered(), [entries[1]]);
    assert_eq!(letters(&setup), [("invalid_payload".to_owned(), 0, None)]);
    let letter = setup.store.letters().remove(0);
    assert_eq!(letter.payload.as_deref(), Some(event.as_bytes()));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_always_fails_is_attempted_as_often_as_allowed() {
    let setup = Setup::with(RelayConfig { max_attempts: 9, ..CONFIG });
    sleep(seconds(3)).await;
    setup.receiver.answer(|_| failed(503));
    let entry = setup.store.publish(0, 1, 2);
    let second = setup.store.publish(0, 1, 2);
    let began = Instant::now();
    within(seconds(110), "a letter", || setup.store.letters().len() == 1).await;
    // The delays of the first 8 failures are 84 s, by a fifth more or less.
    let lasted = began.elapsed();
    assert!(lasted > seconds(67) && lasted < seconds(102), "{lasted:?}");
    assert_eq!(letters(&setup), [("max_attempts".to_owned(), 9, Some(503))]);
    let letter = setup.store.letters().remove(0);
    assert_eq!(letter.last_error.as_deref(), Some("status 503"));
    assert!(matches!(letter.id, LetterId::Delivery(id) if id.entry.ms == entry), "{letter:?}");
    let attempts = setup.receiver.attempts();
    assert_eq!(attempts.iter().filter(|sent| sent.id.entry.ms == entry).count(), 9);
    within(seconds(10), "its letter ends it", || setup.store.acknowledged() == [entry]).await;
    setup.receiver.accept();
    within(seconds(10), "the next one", || setup.store.acknowledged() == [entry, second]).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_old_is_not_attempted() {
    let config = RelayConfig { max_age: seconds(60), ..CONFIG };
    let setup = Setup::with(config);
    setup.receiver.answer(|_| failed(500));
    let (began, old) = (Instant::now(), setup.store.publish(0, 1, 2));
    sleep(seconds(30)).await;
    let young = setup.store.publish(0, 1, 2);
    // The young one may be too old by then.
    within(seconds(90), "a letter", || !setup.store.letters().is_empty()).await;
    let age = setup.store.now_ms() - old;
    assert!((60_000..100_000).contains(&age), "{age}");
    let letters = setup.store.letters();
    assert_eq!(letters[0].reason, "max_age");
    assert!(letters[0].attempts > 3, "{letters:?}");
    assert!(matches!(letters[0].id, LetterId::Delivery(id) if id.entry.ms == old));
    let attempts = setup.receiver.attempts();
    let last = attempts.iter().rfind(|sent| sent.id.entry.ms == old).unwrap();
    assert!(last.at - began < seconds(60));
    setup.receiver.accept();
    within(seconds(60), "the young one", || setup.store.acknowledged().contains(&young)).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_before_its_dead_letter_is_written() {
    let setup = Setup::new();
    setup.store.set_failing("add_dead_letter", true);
    let bad = setup.store.add_payload("no event");
    let good = setup.store.publish(0, 1, 2);
    sleep(seconds(60)).await;
    assert_eq!(setup.store.acknowledged(), [good]);
    let tries = setup.store.calls("add_dead_letter");
    assert!((20..80).contains(&tries), "{tries}");
    setup.store.set_failing("add_dead_letter", false);
    within(seconds(3), "it is done", || setup.store.acknowledged() == [good, bad]).await;
    assert_eq!(setup.store.letters().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_next_owner_goes_on_counting_attempts() {
    let setup = Setup::with(RelayConfig { max_attempts: 7, ..CONFIG });
    setup.receiver.answer(|_| failed(500));
    let entry = setup.store.publish(0, 1, 2);
    within(seconds(20), "5 attempts", || setup.receiver.attempts().len() == 5).await;
    within(seconds(3), "noted", || setup.store.pending_entries() == [(entry, 5)]).await;
    setup.process.kill();
    let config = RelayConfig { max_attempts: 7, ..CONFIG };
    let _next = Process::start_with(&setup.store, &[setup.receiver.webhook("w", "s")], config);
    within(seconds(60), "a letter", || setup.store.letters().len() == 1).await;
    assert_eq!(setup.store.letters()[0].attempts, 7);
    assert_eq!(setup.receiver.attempts().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn the_next_owner_does_not_attempt_everything_at_once() {
    let setup = Setup::new();
    setup.receiver.answer(|_| failed(500));
    let entry = setup.store.publish(0, 1, 2);
    within(seconds(60), "8 attempts", || setup.receiver.attempts().len() == 8).await;
    within(seconds(3), "noted", || setup.store.pending_entries() == [(entry, 8)]).await;
    setup.process.kill();
    let _next = Process::start(&setup.store, &[setup.receiver.webhook("w", "s")]);
    sleep(seconds(40)).await;
    assert_eq!(setup.receiver.attempts().len(), 8);
    within(seconds(60), "the next", || setup.receiver.attempts().len() == 9).await;
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_down_is_probed_and_gets_everything_when_it_is_back() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.receiver.answer(|_| failed(500));
    for reader in 1..=200 {
        setup.store.publish(0, reader, 999);
    }
    sleep(seconds(30)).await;
    let before = setup.receiver.attempts().len();
    assert!(before < 150, "{before}");
    sleep(seconds(3600)).await;
    let probes = setup.receiver.attempts().len() - before;
    // 120 probes: of 8 attempts while there are events that were never attempted, then of 4.
    assert!((480..=720).contains(&probes), "{probes}");
    let warnings = setup.process.warnings();
    assert!(warnings.iter().any(|text| text.contains("only probed: status 500")), "{warnings:?}");
    setup.receiver.accept();
    within(seconds(65), "all arrive", || setup.store.acknowledged().len() == 200).await;
    assert_eq!(setup.process.warnings().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn conversations_that_always_fail_delay_no_event_of_others() {
    // The time between two events that arrive, and how late one may be: within one pause of the circuit.
    for (between, late) in [(seconds(1), seconds(3)), (seconds(20), seconds(17))] {
        let setup = Setup::new();
        sleep(seconds(3)).await;
        setup.receiver.answer(|sent| {
            let is_bad = sent.id.for_user.get() == 999;
            if is_bad { failed(500) } else { Attempt::Delivered(200) }
        });
        for reader in 1..=60 {
            setup.store.publish(0, reader, 999);
        }
        let (mut delays, mut entries) = (Vec::new(), Vec::new());
        for reader in 1..=60 {
            entries.push(setup.store.publish(0, reader, 7));
            sleep(between).await;
        }
        sleep(seconds(60)).await;
        let attempts = setup.receiver.attempts();
        let (now, now_ms) = (Instant::now(), setup.store.now_ms());
        for entry in entries {
            let arrived =
                attempts.iter().find(|sent| sent.is_delivered && sent.id.entry.ms == entry);
            let ago = now - arrived.expect("it arrives").at;
            delays.push(Duration::from_millis(now_ms - entry).saturating_sub(ago));
        }
        delays.sort_unstable();
        assert!(delays.last() < Some(&late), "{between:?}: {delays:?}");
        if between == seconds(1) {
            assert!(delays[30] < ms(50), "{delays:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_with_a_time_to_wait_delays_its_conversation_alone() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.receiver.answer(|sent| {
        let is_bad = sent.id.for_user.get() == 1 && sent.earlier == 0;
        if is_bad { failed_after(500, Some(seconds(3600))) } else { Attempt::Delivered(200) }
    });
    let slow = setup.store.publish(0, 7, 1);
    sleep(ms(10)).await;
    let other = setup.store.publish(0, 7, 2);
    within(ms(10), "the other", || setup.receiver.delivered() == [other]).await;
    sleep(seconds(3590)).await;
    assert_eq!(setup.receiver.attempts().len(), 2);
    within(seconds(15), "it arrives", || setup.receiver.delivered() == [other, slow]).await;
}

#[tokio::test(start_paused = true)]
async fn hours_of_failure_cost_an_event_few_of_its_attempts() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.receiver.answer(|_| failed(500));
    for reader in 1..=3 {
        setup.store.publish(0, reader, 999);
    }
    sleep(seconds(2 * 3600)).await;
    // By the delays of an entry the 12th attempt comes after 86 minutes, the 13th after more than 3 hours.
    let attempts = setup.receiver.attempts();
    for reader in 1..=3 {
        let sender = format!(r#""sender_id":"{reader}""#);
        let of = attempts.iter().filter(|sent| sent.body.contains(&sender)).count();
        assert!((8..=12).contains(&of), "{of}");
    }
    assert_eq!(setup.store.letters().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_asks_to_wait_is_left_alone_for_that_time() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.receiver.answer(|sent| {
        if sent.earlier == 0 && sent.id.for_user.get() == 1 {
            failed_after(429, Some(seconds(30)))
        } else {
            Attempt::Delivered(200)
        }
    });
    setup.store.publish(0, 7, 1);
    within(ms(10), "one attempt", || setup.receiver.attempts().len() == 1).await;
    sleep(ms(10)).await;
    setup.store.publish(0, 7, 2);
    sleep(seconds(29)).await;
    assert_eq!(setup.receiver.attempts().len(), 1);
    within(ms(1100), "both arrive", || setup.receiver.delivered().len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn gone_pauses_the_webhook_for_all_processes() {
    let (store, receiver) = (FakeStore::new(2), FakeReceiver::default());
    let webhooks = [receiver.webhook("w", "s")];
    let (_one, other) = (Process::start(&store, &webhooks), Process::start(&store, &webhooks));
    within(seconds(10), "each has one", || {
        let owners: std::collections::BTreeSet<_> = store.owners().into_values().collect();
        owners.len() == 2
    })
    .await;
    // Both have heard that the check passed.
    sleep(seconds(2)).await;
    receiver.answer(|_| Attempt::Gone);
    store.publish(0, 1, 2);
    within(ms(100), "it is paused", || store.webhook_state("w").paused.is_some()).await;
    assert!(!store.webhook_state("w").paused.unwrap().is_passing);
    sleep(ms(2200)).await;
    let attempts = receiver.attempts().len();
    let warnings = other.warnings();
    assert_eq!(warnings, ["webhook w is paused: the receiver answered 410 Gone"]);
    receiver.accept();
    store.publish(1, 1, 2);
    sleep(seconds(300)).await;
    assert_eq!(receiver.attempts().len(), attempts);
    // As `markread webhook check` does.
    let mut state = store.webhook_state("w");
    state.paused = None;
    store.put_webhook_state("w", state);
    within(seconds(2), "both arrive", || store.acknowledged().len() == 2).await;
}
