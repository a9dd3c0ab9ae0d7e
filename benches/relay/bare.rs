//! POSTs of hyper-util's client alone, in a process of its own: the limit of what a delivery costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::process::Command;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::{CONCURRENCY, process};

/// This program's first argument that starts it.
pub(crate) const NAME: &str = "bare";

/// Runs it, and returns its CPU time in seconds and its memory in bytes.
pub(crate) async fn run(url: &str, payload: &str, count: u64) -> (f64, u64) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([NAME, url, payload, &count.to_string()])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let (cpu, memory) = printed.trim().split_once(' ').unwrap();
    (cpu.parse().unwrap(), memory.parse().unwrap())
}

/// Posts so often, with headers of the size of a delivery's.
pub(crate) fn post(words: &[String]) {
    let [url, payload, count] = words else { panic!("{words:?}") };
    let count: u64 = count.parse().unwrap();
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
        let left = Arc::new(AtomicU64::new(count));
        let body = Bytes::from(format!(r#"{{"for_user_id":"3805104374",{}"#, &payload[1..]));
        let mut tasks = JoinSet::new();
        for _ in 0..CONCURRENCY {
            let (client, left) = (client.clone(), Arc::clone(&left));
            let (url, body) = (url.clone(), body.clone());
            tasks.spawn(async move {
                let take = || {
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        left.checked_sub(1)
                    })
                };
                while take().is_ok() {
                    let signature = "sha256=W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM=";
                    let request = Request::post(&url)
                        .header("content-type", "application/json")
                        .header("user-agent", "markread/0.1.0")
                        .header("x-twitter-webhooks-signature", signature)
                        .header("webhook-id", "0-1518127183443-0-3805104374")
                        .header("webhook-timestamp", "1518127183")
                        .header("webhook-signature", signature)
                        .body(Full::from(body.clone()))
                        .unwrap();
                    let response = client.request(request).await.unwrap();
                    assert!(response.status().is_success());
                    response.into_body().collect().await.unwrap();
                }
            });
        }
        tasks.join_all().await;
    });
    let own = std::process::id();
    println!("{} {}", process::cpu_seconds(own), process::peak_bytes(own));
}
