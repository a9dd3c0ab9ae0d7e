//! Dead letters.

use super::*;

type Fields = Vec<(String, Vec<u8>)>;

const KEY: &str = "markread:dead_letters:one";

pub(super) fn letter(number: u64) -> DeadLetter {
    let entry = EntryId { ms: number, count: 7 };
    DeadLetter {
        id: LetterId::Delivery(DeliveryId { partition: 3, entry, for_user: user(number) }),
        payload: Some(Bytes::from_static(b"{\"direct_message_mark_read_events\":[]}")),
        reason: "max_attempts".to_owned(),
        attempts: 20,
        last_status: Some(503),
        last_error: Some("connection refused \u{1b}[0m".to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_comes_back_as_it_was() {
    let subject = Subject::one().await;
    let (store, webhook) = (&subject.store, webhook());
    let binary: Vec<u8> = (0..=255).rev().collect();
    let of_entry = LetterId::Entry(5, EntryId { ms: u64::MAX, count: u64::MAX });
    let bare = DeadLetter {
        id: of_entry,
        payload: None,
        reason: "no_payload".to_owned(),
        attempts: 0,
        last_status: None,
        last_error: None,
    };
    let letters = [
        letter(1),
        bare.clone(),
        DeadLetter { payload: Some(binary.into()), reason: "not_utf8".to_owned(), ..bare.clone() },
        DeadLetter { payload: Some(Bytes::new()), ..letter(u64::MAX / 2) },
        DeadLetter { payload: Some(vec![b'x'; 1024 * 1024 + 64 * 1024].into()), ..letter(2) },
    ];
    for letter in &letters {
        store.add_dead_letter(&webhook, letter, 0).await.unwrap();
    }
    assert_eq!(store.count_dead_letters(&webhook).await.unwrap(), 5);
    let read = store.dead_letters(&webhook, EntryId::ZERO, 100).await.unwrap();
    assert!(read.is_sorted_by(|a, b| a.at < b.at));
    let read_letters: Vec<_> = read.iter().map(|stored| stored.letter.clone().unwrap()).collect();
    assert_eq!(read_letters, letters);
    // From a place, so many.
    let step = store.dead_letters(&webhook, read[1].at, 2).await.unwrap();
    assert_eq!(step, read[2..4]);
    assert_eq!(store.dead_letters(&webhook, read[4].at, 2).await.unwrap(), []);
    store.remove_dead_letters(&webhook, &[read[0].at, read[2].at]).await.unwrap();
    store.remove_dead_letters(&webhook, &[read[0].at]).await.unwrap();
    store.remove_dead_letters(&webhook, &[]).await.unwrap();
    let left = store.dead_letters(&webhook, EntryId::ZERO, 100).await.unwrap();
    assert_eq!(
        left.iter().map(|stored| stored.at).collect::<Vec<_>>(),
        [1, 3, 4].map(|i| read[i].at)
    );
    // The documented fields.
    let fields: Vec<(String, Fields)> = subject
        .send(KEY, cmd("XRANGE").arg(KEY).arg("-").arg("+").arg("COUNT").arg(1).clone())
        .await;
    let names: Vec<_> = fields[0].1.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["partition", "entry_id", "reason", "attempts"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_bounded_if_they_are_to_be() {
    let subject = Subject::one().await;
    let (store, webhook) = (&subject.store, webhook());
    for n in 1..=1000 {
        store.add_dead_letter(&webhook, &letter(n), 100).await.unwrap();
    }
    let count = store.count_dead_letters(&webhook).await.unwrap();
    assert!((100..=300).contains(&count), "{count}");
    for n in 1..=1000 {
        store.add_dead_letter(&webhook, &letter(n), 0).await.unwrap();
    }
    assert_eq!(store.count_dead_letters(&webhook).await.unwrap(), count + 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_there_is_no_letter_and_bounded() {
    let subject = Subject::one().await;
    let (store, webhook) = (&subject.store, webhook());
    let huge = vec![b'x'; 10 * 1024 * 1024];
    let foreign: [&[(&str, &[u8])]; 6] = [
        &[("a", b"b")],
        &[("webhook_id", b"x"), ("reason", b"r"), ("attempts", b"1")],
        &[("webhook_id", b"\xff"), ("reason", b"r"), ("attempts", b"1")],
        &[("partition", b"0"), ("entry_id", b"1-0"), ("reason", b"r"), ("attempts", b"-1")],
        &[("partition", b"0"), ("entry_id", b"1-0"), ("attempts", b"1")],
        &[("partition", b"0"), ("entry_id", b"1-0"), ("reason", b"r"), ("attempts", &huge)],
    ];
    for fields in foreign {
        let mut add = cmd("XADD");
        add.arg(KEY).arg("*");
        for (name, value) in fields {
            add.arg(name).arg(*value);
        }
        subject.send::<String>(KEY, add).await;
    }
    store.add_dead_letter(&webhook, &letter(1), 0).await.unwrap();
    let (mut read, mut after) = (Vec::new(), EntryId::ZERO);
    loop {
        let step = store.dead_letters(&webhook, after, 3).await.unwrap();
        let Some(last) = step.last() else { break };
        after = last.at;
        read.extend(step);
    }
    let are_letters: Vec<_> = read.iter().map(|stored| stored.letter.is_some()).collect();
    assert_eq!(are_letters, [false, false, false, false, false, false, true]);
}
