//! An attempt to deliver joins the trace of the mark.

use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread_harness::collector::Collector;
use markread_harness::events::{payload, publish_fields};
use markread_harness::receiver::Reply;
use markread_harness::{MESSAGE, READER, RECIPIENT, Receiver, Redis, Relay, WebhookFile};

use super::{TRACE, sampled, server, with};
use crate::relay::SOON;

/// A relay that exports its spans at once.
async fn relay(redis: &Redis, file: &WebhookFile, collector: &Collector) -> Relay {
    let (url, redis_url) = (collector.url(), redis.url());
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    Relay::at(&["--redis-url", &redis_url], file, &[], &variables).await
}

#[tokio::test]
async fn each_attempt_is_a_span_in_the_trace_of_the_mark() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let server = server(&redis, &collector.url(), &[]).await;
    let receiver = Receiver::start().await;
    receiver.answer_by(|arrival| Reply::Status(if arrival.nth == 0 { 500 } else { 200 }));
    let file = WebhookFile::of(&[("main", &receiver, "users = \"all\"")]);
    let _relay = relay(&redis, &file, &collector).await;
    let request = server.caller(READER).request(RECIPIENT, MESSAGE);
    let request = with(request, &[("traceparent", &sampled())]);
    MarkReadServiceClient::new(server.channel()).mark_read(request).await.unwrap();
    receiver.wait_for(1, SOON).await;

    // The call, its two reads of Redis, and two attempts.
    let spans = collector.trace(TRACE, 5).await;
    let call = spans.iter().find(|span| span.kind == "Server").expect("the call");
    let attempts: Vec<_> =
        spans.iter().filter(|span| span.kind == "Client" && span.name.contains("POST")).collect();
    assert_eq!(attempts.len(), 2, "{spans:#?}");
    for attempt in &attempts {
        assert_eq!(attempt.parent, call.id, "{attempt:#?}");
        assert_eq!(attempt.attribute("http.request.method"), "POST");
    }
    let mut statuses: Vec<_> =
        attempts.iter().map(|span| span.attribute("http.response.status_code")).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, ["200", "500"]);
}

/// What another program has put into the field is not passed on unless it is a `traceparent`.
#[tokio::test]
async fn a_malformed_traceparent_is_as_none() {
    let (redis, collector) = (Redis::start().await, Collector::start().await);
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, "users = \"all\"")]);
    let _relay = relay(&redis, &file, &collector).await;
    for (message, value) in (1..).zip([&b"x"[..], b"00-zz\r\nx-evil: 1", b"\xff\xfe", b""]) {
        let payload = payload(1, 2, message);
        publish_fields(&redis, &[("payload", payload.as_bytes()), ("traceparent", value)]).await;
    }
    for arrival in receiver.wait_for(4, SOON).await {
        let traceparent = arrival.headers.get("traceparent");
        assert!(traceparent.is_none_or(|value| value.len() == 55), "{traceparent:?}");
        assert!(!arrival.headers.contains_key("x-evil"));
    }
}
