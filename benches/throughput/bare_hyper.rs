//! hyper's HTTP/2 server alone, with the service's windows and buffers, the generated service and this
//! program's allocator: the limit of what an idle connection costs in memory.

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use markread::net::listener::HEADER_LIST_MAX_BYTES;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

use crate::noop;

/// This program's first argument that starts it.
pub(crate) const NAME: &str = "hyper";

/// As in `src/net/http2/mod.rs`, and the streams as by default.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
const SEND_BUFFER_MAX_BYTES: usize = 16 * 1024;
const STREAMS: u32 = 256;

/// Serves until the process is killed.
pub(crate) fn serve() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let service = TowerToHyperService::new(noop::generated());
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADER_LIST_MAX_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_MAX_BYTES);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service.clone()));
        }
    });
}
