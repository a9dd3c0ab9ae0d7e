//! The metrics and the event of `docs/contract.md` against a real server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Row, Table, code, contract, plain};
use markread_harness::events::{payload, publish};
use markread_harness::{
    MESSAGE, READER, RECIPIENT, Receiver, Redis, Relay, Server, WebhookFile, eventually,
};

/// A metric: its type, and its labels with the values that the page lists.
#[derive(Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Labels whose values the page lists: all of them, and no others.
const LISTED: [&str; 3] = ["bound", "outcome", "operation"];

/// The labels in a cell: "`name`", "`name`: `value`, `value`", with `;` between.
fn labels(cell: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut labels = BTreeMap::new();
    for part in cell.split(';') {
        let (names, values) = part.split_once(':').unwrap_or((part, ""));
        for name in code(names) {
            let values = if LISTED.contains(&name) { values } else { "" };
            labels.insert(name.to_owned(), code(values).map(str::to_owned).collect());
        }
    }
    labels
}

/// The metrics below a heading of the page.
fn page_metrics(heading: &str) -> BTreeMap<String, Metric> {
    let tables = Table::all(contract()).into_iter();
    let tables = tables.filter(|table| table.heading == heading && table.has("labels"));
    let metric = |row: Row<'_>| {
        let metric = Metric { kind: row["type"].to_owned(), labels: labels(row["labels"]) };
        (plain(row["name"]), metric)
    };
    tables.flat_map(|table| table.rows).map(metric).collect()
}

/// The metrics of a page of `/metrics`.
fn server_metrics(page: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let mut name = "";
    for line in page.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (family_name, kind) = family.split_once(' ').unwrap();
            name = family_name;
            let kind = kind.to_owned();
            metrics.insert(name.to_owned(), Metric { kind, ..Metric::default() });
        }
        if line.starts_with('#') {
            continue;
        }
        let Some((_, labels)) = line.split_once('{') else { continue };
        let (labels, _) = labels.split_once('}').unwrap();
        let metric = metrics.get_mut(name).expect("its type stands before a series");
        for (label, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
            // A bucket's bound is Prometheus's own.
            if label != "le" {
                let values = metric.labels.entry(label.to_owned()).or_default();
                if LISTED.contains(&label) {
                    values.insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    metrics
}

#[tokio::test]
async fn the_contracts_metrics_are_those_of_a_server() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    redis.run::<()>("XGROUP CREATE direct_message_mark_read_events group 0").await;
    let page = eventually("the group has a series", Duration::from_secs(10), async || {
        let (_, page) = server.get("/metrics").await;
        page.contains("markread_stream_group_unread_entries{").then_some(page)
    })
    .await;
    assert_eq!(page_metrics("9 Metrics"), server_metrics(&page), "the page, and /metrics");
}

#[tokio::test]
async fn the_contracts_metrics_of_a_relay_are_those_of_a_relay() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, "users = \"all\"")]);
    let relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(READER, RECIPIENT, MESSAGE)]).await;
    let is_complete = |page: &String| {
        let has = |name| page.contains(&format!("\nmarkread_relay_{name}"));
        has("delay_seconds_count{webhook=\"main\"} 1") && has("verified_timestamp_seconds{")
    };
    let page = eventually("a delivery is in the metrics", Duration::from_secs(10), async || {
        Some(relay.get("/metrics").await.1).filter(is_complete)
    })
    .await;
    let mut metrics = server_metrics(&page);
    let (relays, others): (BTreeSet<_>, BTreeSet<_>) =
        metrics.keys().cloned().partition(|name| name.starts_with("markread_relay_"));
    metrics.retain(|name, _| relays.contains(name));
    assert_eq!(page_metrics("Metrics of a relay"), metrics, "the page, and /metrics");
    // The rest are some of a server's.
    for name in
        ["build_info", "memory_used_bytes", "memory_limit_bytes", "store_up", "store_warnings"]
    {
        assert!(others.contains(&format!("markread_{name}")), "{name} in {others:?}");
    }
    let of_server = page_metrics("9 Metrics");
    let unknown: Vec<_> = others.iter().filter(|name| !of_server.contains_key(*name)).collect();
    assert_eq!(unknown, Vec::<&String>::new(), "metrics that are not in the page");
}

#[tokio::test]
async fn the_contracts_event_is_what_a_mark_leaves() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    let [payload] = redis.payloads().await.try_into().expect("one event");
    let mut lines = contract().lines().map(str::trim);
    let documented = lines.find(|line| line.starts_with("{\"direct_")).expect("an event");
    let time = |payload: &str| {
        let event: serde_json::Value = serde_json::from_str(payload).unwrap();
        let time = event["direct_message_mark_read_events"][0]["created_timestamp"].as_str();
        time.unwrap().to_owned()
    };
    assert_eq!(documented.replace(&time(documented), &time(&payload)), payload);
}

#[tokio::test]
async fn every_key_that_a_mark_and_a_read_leave_is_in_the_contract() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    caller.state(RECIPIENT).await.unwrap();
    let patterns: Vec<_> = Table::all(contract())
        .into_iter()
        .filter(|table| table.has("key"))
        .flat_map(|table| table.rows)
        .map(|row| (code(row["key"]).next().unwrap().to_owned(), row["type"]))
        .collect();
    for key in redis.run::<Vec<String>>("KEYS *").await {
        let kind = redis.run::<String>(&format!("TYPE {key}")).await;
        let pattern = key.replace(&READER.to_string(), "<reader>");
        assert!(patterns.contains(&(pattern, &kind)), "{key}, a {kind}, in {patterns:?}");
    }
}
