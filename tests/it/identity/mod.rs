//! Who calls, and how they prove it: "Identity" and "HTTP" in `docs/contract.md`.

mod claims;
pub(crate) mod edge;
mod flags;
pub(crate) mod jwks;
mod key_files;
pub(crate) mod oauth1;
mod tls;
