//! The operators' port, plain HTTP: `/metrics`, `/livez`, `/readyz`.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use crate::health::Readiness;
use crate::lifecycle::Lifecycle;
use crate::store::StoreHealth;

/// What the port tells of.
#[derive(Clone)]
struct Ops {
    metrics: PrometheusHandle,
    lifecycle: Lifecycle,
    store: watch::Receiver<StoreHealth>,
}

/// The three pages.
pub fn router(
    metrics: PrometheusHandle,
    lifecycle: Lifecycle,
    store: watch::Receiver<StoreHealth>,
) -> Router {
    Router::new()
        // Alive while it answers: no outage of Redis is mended by a restart.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .with_state(Ops { metrics, lifecycle, store })
}

async fn readyz(State(ops): State<Ops>) -> impl IntoResponse {
    match Readiness::of(ops.lifecycle.phase(), &ops.store.borrow()) {
        Readiness::Ready { warnings } => {
            let mut page = "ok\n".to_owned();
            for warning in warnings {
                page.extend(["warning: ", warning, "\n"]);
            }
            (StatusCode::OK, page)
        }
        Readiness::NotReady(cause) => {
            // The cause may quote what Redis said.
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", cause.escape_debug()))
        }
    }
}

async fn metrics_page(State(ops): State<Ops>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], ops.metrics.render())
}
