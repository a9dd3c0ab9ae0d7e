//! The table of targets.

mod connections;
mod events;
mod flags;
mod form;
mod grpc;
mod keys;
mod oauth;
mod positions;
mod relay;
mod replies;
mod servers;
mod tokens;
mod trace;

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of the folder with its corpus.
    pub name: &'static str,
    /// Tries an input; panics where a property does not hold.
    pub run: fn(&[u8]),
    /// Longest input that is worth a try, in bytes.
    pub max_len: usize,
    /// Whether a minute is spent on it, and not ten seconds.
    pub is_long: bool,
}

const fn long(name: &'static str, run: fn(&[u8]), max_len: usize) -> Target {
    Target { name, run, max_len, is_long: true }
}

const fn short(name: &'static str, run: fn(&[u8]), max_len: usize) -> Target {
    Target { name, run, max_len, is_long: false }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    long("form", form::form, 9000),
    short("form_request", form::request, 9000),
    long("oauth_header", oauth::header, 2048),
    short("oauth_signed", oauth::signed, 2048),
    long("jwt", tokens::jwt, 2048),
    short("jwt_claims", tokens::claims, 2048),
    long("jwk_set", keys::jwk_set, 4096),
    short("key_files", keys::key_files, 4096),
    short("credentials_file", keys::credentials_file, 4096),
    long("traceparent", trace::traceparent, 1024),
    short("grpc_timeout", trace::grpc_timeout, 32),
    long("page_token", positions::page_token, 256),
    short("watch_position", positions::watch_position, 8192),
    long("entry_id", positions::entry_id, 256),
    long("grpc_framing", grpc::framing, 70_000),
    short("grpc_requests", grpc::requests, 4096),
    short("routing", grpc::routing, 1024),
    long("stream_entries", replies::stream_entries, 4096),
    short("script_replies", replies::scripts, 4096),
    short("relay_replies", replies::relay, 4096),
    short("user_objects", events::user_object, 4096),
    long("import_lines", events::import_lines, 8192),
    short("cluster_nodes", servers::cluster_nodes, 4096),
    short("redirections", servers::redirection, 512),
    short("sentinels", servers::sentinel, 1024),
    long("webhooks_file", relay::webhooks_file, 4096),
    short("webhook_urls", relay::urls, 1024),
    short("receivers", relay::receivers, 512),
    short("flags", flags::flags, 128),
    short("first_bytes", connections::first_bytes, 256),
    short("http2_frames", connections::http2_frames, 4096),
];
