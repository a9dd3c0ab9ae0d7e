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
            let mut page = "ok\n".to_owned();
            for warning in warnings {
                page.extend(["warning: ", &*warning, "\n"]);
            }
            (StatusCode::OK, page)
        }
        Readiness::NotReady(cause) => {
            // The cause may quote an error of Redis.
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", cause.escape_debug()))
        }
    }
}

async fn metrics_page(State(ops): State<Ops>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render(&ops.metrics))
}
