//! What a call costs Redis is bounded, whatever recipients a reader has picked: counted in fields that
//! the scripts read and write, as MONITOR shows them.

use std::collections::HashMap;

use super::*;

/// Fields of a hash past which it is read in parts.
const LARGE: u64 = 512;

/// Most fields of one command of a script, and most commands.
#[derive(Debug, Default)]
struct Cost {
    fields: u64,
    commands: usize,
}

/// Sizes of a reader's hashes.
async fn sizes(redis: &Redis) -> HashMap<String, u64> {
    let keys: Vec<String> = redis.run(&format!("KEYS markread:cursors:{READER}*")).await;
    let mut sizes = HashMap::new();
    for key in keys {
        let size = redis.run(&format!("HLEN {key}")).await;
        sizes.insert(key, size);
    }
    sizes
}

/// Runs some work whose scripts read and write a bounded number of fields with each command.
async fn cost<T>(redis: &Redis, work: impl Future<Output = T>) -> Cost {
    let before = sizes(redis).await;
    let (_, commands) = redis.script_commands(work).await;
    let mut cost = Cost { commands: commands.len(), ..Cost::default() };
    for command in commands {
        let given = u64::try_from(command.len()).unwrap();
        let size = before.get(command.get(1).map_or("", String::as_str)).copied();
        let fields = match command[0].to_ascii_uppercase().as_str() {
            // A hash that did not exist before is a bucket, which was just split off.
            "HGETALL" | "HKEYS" => size.unwrap_or_default(),
            "HSCAN" => command[4].parse().unwrap(),
            "HRANDFIELD" => command[2].parse().unwrap(),
            _ => given,
        };
        cost.fields = cost.fields.max(fields);
        assert!(
            fields <= 2 * LARGE + 10,
            "{fields} fields by {:?}",
            &command[..command.len().min(3)]
        );
    }
    cost
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_and_a_mark_read_few_fields_whatever_the_recipients_are() {
    const CONVERSATIONS: u64 = 6_000;
    for version in [1, 2] {
        let redis = redis_of(version).await;
        let subject = Subject::on(Arc::clone(&redis), MANY).await;
        for first in (0..CONVERSATIONS).step_by(500) {
            mark_all(&subject, (first..first + 500).map(picked)).await;
        }
        let largest = sizes(&redis).await.into_values().max().unwrap();
        assert_eq!(largest > LARGE, version == 1, "{largest} fields in one hash");
        for limit in [1, 100, 1_000] {
            let cost = cost(&redis, page(&subject, READER, None, limit)).await;
            assert!(cost.commands < 20 + limit, "{cost:?} for a page of {limit}");
        }
        for n in [0, CONVERSATIONS, CONVERSATIONS + 1] {
            let cost = cost(&redis, subject.mark_one(mark(READER, picked(n), MESSAGE + 1))).await;
            assert!(cost.commands < 30, "{cost:?} for a mark");
        }
        assert_eq!(redis.cursors(READER).await.len(), usize::try_from(CONVERSATIONS + 2).unwrap());
    }
}

/// A large hash is read in parts, each cursor on one page.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_large_hash_hold_every_cursor_once() {
    const LARGE_BUCKET: u64 = 3_000;
    let redis = redis_of(1).await;
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    let recipients = || (0..LARGE_BUCKET).map(picked).chain(2..200);
    mark_all(&subject, recipients()).await;
    let expected: BTreeMap<_, _> = recipients().map(|to| (to, MESSAGE)).collect();
    for limit in [1_000, 100, 33] {
        // A new store has a new window, and every read of it is served.
        redis.run::<()>(&format!("DEL markread:read_quota:{READER}")).await;
        let (listed, pages) = list(&subject, READER, None, limit).await;
        assert_eq!(listed, expected, "in pages of {limit}");
        assert!(pages < 4 + 2 * expected.len() / limit, "{pages} pages of {limit}");
    }
    // The smallest page, from the middle of the hash on.
    let (_, mut after) = page(&subject, READER, None, 1_000).await;
    let mut seen = Vec::new();
    for _ in 0..50 {
        let (cursors, next) = page(&subject, READER, after, 1).await;
        seen.extend(cursors);
        after = next;
    }
    let distinct: BTreeMap<_, _> = seen.iter().copied().collect();
    assert_eq!(distinct.len(), seen.len());
    assert!(seen.len() > 40, "{}", seen.len());
}

/// Cursors that are added meanwhile to a large hash, which enlarges its table, hide none.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_growing_large_hash_miss_none() {
    let redis = redis_of(1).await;
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    mark_all(&subject, (0..1_000).map(picked)).await;
    let (mut seen, mut after, mut new) = (BTreeMap::new(), None, 1_000);
    loop {
        let (cursors, next) = page(&subject, READER, after, 50).await;
        seen.extend(cursors);
        if next.is_none() {
            break;
        }
        after = next;
        if new < 5_000 {
            mark_all(&subject, (new..new + 500).map(picked)).await;
            new += 500;
        }
    }
    assert!((0..1_000).all(|n| seen.contains_key(&picked(n))), "{} seen", seen.len());
}

/// Two stores have two keys, so nobody learns from one how another places.
#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_pages_differs_between_stores() {
    let mut orders = Vec::new();
    for version in [1, 1, 2, 2] {
        let redis = redis_of(version).await;
        let subject = Subject::on(redis, MANY).await;
        mark_all(&subject, 1..=200).await;
        let (cursors, _) = page(&subject, READER, None, 200).await;
        orders.push(cursors.into_iter().map(|(to, _)| to).collect::<Vec<_>>());
    }
    assert_eq!(orders[0], orders[1], "the plain order is the same everywhere");
    assert!(orders[2] != orders[3] && orders[2] != orders[0] && orders[3] != orders[0]);
}
