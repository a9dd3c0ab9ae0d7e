//! The key of bearer tokens in a file.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::jwt::{ExpectedClaims, Secret};
use super::keys::{Check, Keys};
use super::verifier::Verifier;
use crate::files::{FileWatcher, Reread};

/// Verifies tokens with the key of a file, as it is now.
#[derive(Debug)]
pub struct KeyFile {
    kind: KeyKind,
    expected: ExpectedClaims,
    reread: FileWatcher,
    /// Replaced together with the tokens that they verified.
    keys: ArcSwap<Keys>,
}

/// The kind of key that a file contains.
#[derive(Clone, Copy, Debug)]
pub enum KeyKind {
    /// `--jwt-secret-file`: a shared secret for HS256.
    Secret,
    /// `--jwt-public-key-file`: a public key, PEM.
    PublicKey,
}

impl KeyFile {
    /// Creates it from a file's contents.
    ///
    /// # Errors
    ///
    /// The problem of the contents, as the end of a sentence that names the file.
    pub fn new(
        file: &Path,
        contents: Vec<u8>,
        kind: KeyKind,
        expected: ExpectedClaims,
    ) -> Result<Self, String> {
        let keys = ArcSwap::from_pointee(kind.keys(&contents, &expected)?);
        let reread = FileWatcher::new(vec![file.to_owned()], vec![contents]);
        Ok(Self { kind, expected, reread, keys })
    }

    /// Rereads the file when it changes, for ever. Tokens of the old key are refused from then on.
    pub async fn run(self: Arc<Self>, reread: Reread) {
        let apply = |contents: &[Vec<u8>]| {
            let contents = contents.first().map(Vec::as_slice).unwrap_or_default();
            self.keys.store(Arc::new(self.kind.keys(contents, &self.expected)?));
            Ok(())
        };
        self.reread.clone().run(&reread, apply).await;
    }

    /// Checks a token.
    pub fn check(&self, token: &str) -> Check {
        self.keys.load().check(token)
    }
}

impl KeyKind {
    fn keys(self, contents: &[u8], expected: &ExpectedClaims) -> Result<Keys, String> {
        let verifier = match self {
            Self::Secret => Verifier::with_secret(&Secret::from_file_contents(contents.to_vec())?),
            Self::PublicKey => Verifier::with_public_key(contents)?,
        };
        Ok(Keys::single(verifier, expected.clone()))
    }
}
