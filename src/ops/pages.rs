//! Pages of the operators' port, over plain HTTP: `/metrics`, `/livez`, `/readyz`.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;

use super::health::{Readiness, Sources};
use crate::telemetry::metrics;

/// Sources of the pages.
#[derive(Clone)]
struct Ops {
    metrics: PrometheusHandle,
    sources: Sources,
}

/// Creates the three pages.
pub fn router(metrics: PrometheusHandle, sources: Sources) -> Router {
    Router::new()
        // Always 200: a restart does not end an outage of Redis.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .with_state(Ops { metrics, sources })
}

async fn readyz(State(ops): State<Ops>) -> impl IntoResponse {
    match ops.sources.readiness() {
        Readiness::Ready { warnings } => {
            let lines = warnings.iter().map(|warning| line("warning: ", warning));
            (StatusCode::OK, "ok\n".to_owned() + &lines.collect::<String>())
        }
        Readiness::NotReady(cause) => {
            (StatusCode::SERVICE_UNAVAILABLE, line("not ready: ", &cause))
        }
    }
}

/// Returns a line of the page. Its text may quote an error of Redis.
fn line(kind: &str, text: &str) -> String {
    let escaped = text.chars().map(|character| match character {
        // Nothing ends at a quotation mark here.
        '\'' | '"' => character.to_string(),
        _ => character.escape_debug().to_string(),
    });
    format!("{kind}{}\n", escaped.collect::<String>())
}

async fn metrics_page(State(ops): State<Ops>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render(&ops.metrics))
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use tokio::sync::watch;

    use super::*;
    use crate::identity::jwks::KeysState;
    use crate::net::lifecycle::Phase;
    use crate::store::StoreHealth;

    #[tokio::test]
    async fn what_redis_said_stays_in_its_line() {
        let text = "ERR 'x'\nnot ready: \u{1b}[2J";
        let warning = StoreHealth::Ready { warnings: vec![text.into()] };
        let shown = "ERR 'x'\\nnot ready: \\u{1b}[2J\n";
        for (store, expected) in [
            (warning, format!("ok\nwarning: {shown}")),
            (StoreHealth::Away(text.to_owned()), format!("not ready: {shown}")),
        ] {
            let sources = Sources {
                phase: watch::channel(Phase::Serving).1,
                store: watch::channel(store).1,
                keys: watch::channel(KeysState::Available).1,
            };
            let metrics = metrics_exporter_prometheus::PrometheusBuilder::new();
            let metrics = metrics.build_recorder().handle();
            let page = readyz(State(Ops { metrics, sources })).await.into_response();
            let page = to_bytes(page.into_body(), 1000).await.unwrap();
            assert_eq!(page, expected);
        }
    }
}
