//! Flags of the commands that call a server.

use std::path::PathBuf;

use clap::Args;

use super::switch;

/// Flags of every client.
#[derive(Args)]
pub(in crate::cli) struct ClientArgs {
    /// Address of the server: host:port, http://host:port or https://host:port; without a scheme it is
    /// https if any of the --tls- files is set
    #[arg(long, value_name = "URL", default_value = "127.0.0.1:50051")]
    #[arg(env = "MARKREAD_ADDRESS", hide_env_values = true)]
    pub(in crate::cli) address: String,

    /// File with a bearer token
    #[arg(long, value_name = "FILE", env = "MARKREAD_TOKEN_FILE", hide_env_values = true)]
    pub(in crate::cli) token_file: Option<PathBuf>,

    /// User ID of the reader, for a server with --dev or as a trusted client
    #[arg(long, value_name = "ID", env = "MARKREAD_USER", hide_env_values = true)]
    pub(in crate::cli) user: Option<String>,

    /// File with the CAs of the server's certificate, PEM [default: the system's]
    #[arg(long, value_name = "FILE", env = "MARKREAD_TLS_CA", hide_env_values = true)]
    pub(in crate::cli) tls_ca: Option<PathBuf>,

    /// File with the client's certificate chain, PEM
    #[arg(long, value_name = "FILE", env = "MARKREAD_TLS_CERT", hide_env_values = true)]
    pub(in crate::cli) tls_cert: Option<PathBuf>,

    /// File with the certificate's private key, PEM
    #[arg(long, value_name = "FILE", env = "MARKREAD_TLS_KEY", hide_env_values = true)]
    pub(in crate::cli) tls_key: Option<PathBuf>,
}

#[derive(Args)]
pub(in crate::cli) struct WatchArgs {
    /// ID of the event or heartbeat to resume after; 0-0 for all events [default: from now on]
    #[arg(long, value_name = "ID", env = "MARKREAD_AFTER", hide_env_values = true)]
    pub(in crate::cli) after: Option<String>,

    /// Print each event as a JSON object
    #[arg(long, env = "MARKREAD_JSON", hide_env_values = true)]
    #[arg(value_parser = switch)]
    pub(in crate::cli) json: bool,

    #[command(flatten)]
    pub(in crate::cli) client: ClientArgs,
}

#[derive(Args)]
pub(in crate::cli) struct MarkArgs {
    /// User ID of the other user of the conversation
    #[arg(long, value_name = "ID", env = "MARKREAD_RECIPIENT", hide_env_values = true)]
    pub(in crate::cli) recipient: String,

    /// ID of the most recent message that was read
    #[arg(long, value_name = "ID", env = "MARKREAD_LAST_READ_EVENT_ID", hide_env_values = true)]
    pub(in crate::cli) last_read_event_id: String,

    #[command(flatten)]
    pub(in crate::cli) expect: ExpectArgs,

    #[command(flatten)]
    pub(in crate::cli) client: ClientArgs,
}

#[derive(Args)]
pub(in crate::cli) struct StateArgs {
    /// User ID of the other user of a conversation; repeatable, at most 500 [default: all of the
    /// reader's conversations]
    #[arg(long, value_name = "ID", env = "MARKREAD_RECIPIENT", hide_env_values = true)]
    #[arg(value_delimiter = ',')]
    pub(in crate::cli) recipient: Vec<String>,

    /// Fail, with exit status 1, unless the reader has read up to this message of each --recipient
    #[arg(long, value_name = "ID", env = "MARKREAD_AT_LEAST", hide_env_values = true)]
    pub(in crate::cli) at_least: Option<String>,

    #[command(flatten)]
    pub(in crate::cli) expect: ExpectArgs,

    #[command(flatten)]
    pub(in crate::cli) client: ClientArgs,
}

/// For scripts, and for `helm test`.
#[derive(Args)]
pub(in crate::cli) struct ExpectArgs {
    /// gRPC status that the call must end with, as in UNAUTHENTICATED: exit status 0 if it does,
    /// otherwise 1 [default: OK]
    #[arg(long, value_name = "STATUS", env = "MARKREAD_EXPECT_STATUS", hide_env_values = true)]
    pub(in crate::cli) expect_status: Option<String>,
}

#[derive(Args)]
pub(in crate::cli) struct HealthcheckArgs {
    /// Address that the server listens on, or a name and a port; an unspecified address means loopback
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    #[arg(env = "MARKREAD_LISTEN", hide_env_values = true)]
    pub(in crate::cli) listen: String,

    /// File with the CAs of the server's certificate, PEM; it or --tls-server-name turns on TLS
    /// [default: the system's]
    #[arg(long, value_name = "FILE", env = "MARKREAD_TLS_CA", hide_env_values = true)]
    pub(in crate::cli) tls_ca: Option<PathBuf>,

    /// Name in the server's certificate [default: the host of --listen]
    #[arg(long, value_name = "NAME", env = "MARKREAD_TLS_SERVER_NAME", hide_env_values = true)]
    pub(in crate::cli) tls_server_name: Option<String>,
}
