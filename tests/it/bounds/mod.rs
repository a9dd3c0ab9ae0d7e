//! What one connection and one peer may cost. Each bound has a twin that stays below it.

mod answers;
mod connections;
mod frames;

use markread_harness::Server;

/// How often a bound refused or ended something.
async fn refused(server: &Server, bound: &str) -> f64 {
    let series = format!("markread_refused_total{{bound=\"{bound}\"}}");
    server.metric(&series).await.expect("every bound has a series")
}
