//! Who calls, and how they prove it: "Identity" and "HTTP" in `docs/contract.md`.

mod claims;
mod edge;
mod flags;
mod jwks;
mod key_files;
pub(crate) mod oauth1;
mod tls;
