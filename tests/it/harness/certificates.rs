//! Certificates as an operator makes them: with openssl, in PEM files.

use std::fs::{copy, read, write};

use tempfile::TempDir;

use super::openssl;

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// A CA, in a directory of its own. All have the same name: it takes a key to tell them apart.
pub(crate) struct Authority(TempDir);

/// The files of a certificate and of its key.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = "-keyout ca.key -out ca.pem";
        openssl(dir.path(), &format!("req -x509 {KEY} {files} -subj /CN=ca -days 2")).await;
        Self(dir)
    }

    /// A CA whose certificate this one has signed.
    pub(crate) async fn below(&self) -> Self {
        let below = tempfile::tempdir().unwrap();
        let signed = self.sign("/CN=ca-below", "below", "basicConstraints=CA:TRUE", 2).await;
        copy(signed.chain, below.path().join("ca.pem")).unwrap();
        copy(signed.key, below.path().join("ca.key")).unwrap();
        Self(below)
    }

    /// The CA's own certificate and key.
    pub(crate) fn itself(&self) -> Certificate {
        self.files("ca")
    }

    /// The file of the CA's own certificate.
    pub(crate) fn file(&self) -> String {
        self.path("ca.pem")
    }

    /// A certificate of its own for this name (which is no word of it) and these SANs, as openssl
    /// writes them: `DNS:localhost,URI:spiffe://example.org/a`.
    pub(crate) async fn issue(&self, name: &str, sans: &str) -> Certificate {
        self.issue_to("/CN=somebody", name, &format!("subjectAltName={sans}"), 2).await
    }

    /// A certificate with this subject, these extensions, and so many days to live.
    pub(crate) async fn issue_to(
        &self,
        subject: &str,
        name: &str,
        extensions: &str,
        days: u32,
    ) -> Certificate {
        let extensions = format!("basicConstraints=CA:FALSE\n{extensions}");
        self.sign(subject, name, &extensions, days).await
    }

    async fn sign(&self, subject: &str, name: &str, extensions: &str, days: u32) -> Certificate {
        let dir = self.0.path();
        let files = format!("-keyout {name}.key -out {name}.csr");
        openssl(dir, &format!("req {KEY} {files} -subj {subject}")).await;
        write(dir.join("extensions"), extensions).unwrap();
        let sign = "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions";
        openssl(dir, &format!("{sign} -days {days} -in {name}.csr -out {name}.pem")).await;
        self.files(name)
    }

    fn files(&self, name: &str) -> Certificate {
        let [chain, key] = ["pem", "key"].map(|kind| self.path(&format!("{name}.{kind}")));
        Certificate { chain, key }
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

impl Certificate {
    /// The same, followed by that of the CA that has signed it.
    pub(crate) fn with(&self, authority: &Authority) -> Self {
        let chain = format!("{}.chain", self.chain);
        let files = [&self.chain, &authority.file()].map(|file| read(file).unwrap());
        write(&chain, files.concat()).unwrap();
        Self { chain, key: self.key.clone() }
    }
}
