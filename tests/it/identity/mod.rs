//! CONTRACT section 4, "Identity", and section 8: who calls, and how they prove it.

mod edge;
mod flags;
mod jwks;
mod oauth1;
mod tls;
