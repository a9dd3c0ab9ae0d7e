//! Certificates in PEM files, made by openssl as an operator makes them.

use std::fs::{copy, read, write};

use tempfile::TempDir;

use crate::openssl;

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// A certificate authority with its own directory. All have the same name, so that only the key
/// tells them apart.
pub struct Authority(TempDir);

/// A certificate and its private key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The file with the certificate, then those of its issuers if any.
    pub chain: String,
    /// The file with the key.
    pub key: String,
}

impl Authority {
    /// Makes a self-signed CA.
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = "-keyout ca.key -out ca.pem";
        openssl(dir.path(), &format!("req -x509 {KEY} {files} -subj /CN=ca -days 2")).await;
        Self(dir)
    }

    /// Makes an intermediate CA, signed by this one.
    pub async fn below(&self) -> Self {
        let below = tempfile::tempdir().unwrap();
        let signed = self.sign("/CN=ca-below", "below", "basicConstraints=CA:TRUE", 2).await;
        copy(signed.chain, below.path().join("ca.pem")).unwrap();
        copy(signed.key, below.path().join("ca.key")).unwrap();
        Self(below)
    }

    /// This CA's own certificate and key.
    pub fn itself(&self) -> Certificate {
        self.files("ca")
    }

    /// The file with this CA's own certificate.
    pub fn file(&self) -> String {
        self.path("ca.pem")
    }

    /// Issues a certificate with these subject alternative names, in openssl's notation:
    /// `DNS:localhost,URI:spiffe://example.org/a`. `name` is that of the files only.
    pub async fn issue(&self, name: &str, sans: &str) -> Certificate {
        self.issue_to("/CN=somebody", name, &format!("subjectAltName={sans}"), 2).await
    }

    /// Issues a certificate with this subject and these extensions, valid for `days`.
    pub async fn issue_to(
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
    /// The same certificate in a file that also holds its issuer's.
    #[must_use]
    pub fn with(&self, authority: &Authority) -> Self {
        let chain = format!("{}.chain", self.chain);
        let files = [&self.chain, &authority.file()].map(|file| read(file).unwrap());
        write(&chain, files.concat()).unwrap();
        Self { chain, key: self.key.clone() }
    }
}
