//! Settings of authentication: tokens, signatures, certificates.

use std::sync::Arc;

use http::Uri;
use http::uri::Scheme;

use crate::cli::args::ServeArgs;
use crate::files::{private_key, problem, read};
use crate::identity::jwks::Jwks;
use crate::identity::key_file::{KeyFile, KeyKind};
use crate::identity::oauth1::{OAuth1, Origin};
use crate::identity::{Bearer, Identity};
use crate::net::tls::{Tls, TlsFiles};

impl ServeArgs {
    pub(super) fn identity(&self) -> Result<Identity, String> {
        if self.dev {
            return Ok(Identity::Dev);
        }
        let (bearer, oauth1) = (self.bearer()?, self.oauth1()?);
        // A client certificate alone names no reader.
        if bearer.is_none() && oauth1.is_none() && self.trusted_client.is_empty() {
            return Err("no way to authenticate callers is configured: set --jwt-secret-file, \
                        --jwt-public-key-file, --jwt-jwks-url, --oauth1-credentials-file or \
                        --trusted-client, or use --dev to try it out"
                .to_owned());
        }
        Ok(Identity::Required { bearer, oauth1 })
    }

    fn bearer(&self) -> Result<Option<Bearer>, String> {
        let ways = [
            ("--jwt-secret-file", self.jwt_secret_file.is_some()),
            ("--jwt-public-key-file", self.jwt_public_key_file.is_some()),
            ("--jwt-jwks-url", self.jwt_jwks_url.is_some()),
        ];
        let mut set = ways.into_iter().filter_map(|(flag, set)| set.then_some(flag));
        let first = set.next();
        if let (Some(first), Some(second)) = (first, set.next()) {
            return Err(format!("{first} and {second} are both set: remove one"));
        }
        let expected = self.expected.expected();
        let key_files = [
            ("--jwt-secret-file", &self.jwt_secret_file, KeyKind::Secret),
            ("--jwt-public-key-file", &self.jwt_public_key_file, KeyKind::PublicKey),
        ];
        for (flag, file, kind) in key_files {
            let Some(file) = file else { continue };
            let key = KeyFile::new(file, read(flag, file)?, kind, expected)
                .map_err(|what| problem(flag, file, &what))?;
            return Ok(Some(Bearer::Configured(Arc::new(key))));
        }
        if let Some(url) = &self.jwt_jwks_url {
            let jwks = Jwks::new(jwks_url(url)?, expected);
            return Ok(Some(Bearer::Fetched(Arc::new(jwks))));
        }
        for (flag, claim) in
            [("--jwt-issuer", expected.issuer), ("--jwt-audience", expected.audience)]
        {
            if claim.is_some() {
                return Err(format!("{flag} needs a way to verify tokens: {VERIFY}"));
            }
        }
        Ok(None)
    }

    fn oauth1(&self) -> Result<Option<Arc<OAuth1>>, String> {
        const FLAG: &str = "--oauth1-credentials-file";
        let urls: Result<Vec<_>, _> = self.public_url.iter().map(|url| public_url(url)).collect();
        let urls = urls?;
        match &self.oauth1_credentials_file {
            Some(file) => {
                let oauth1 = OAuth1::new(file, read(FLAG, file)?, urls)
                    .map_err(|what| problem(FLAG, file, &what))?;
                Ok(Some(Arc::new(oauth1)))
            }
            None if urls.is_empty() => Ok(None),
            None => Err(format!("--public-url must be set together with {FLAG}")),
        }
    }

    pub(super) fn tls(&self) -> Result<Option<Arc<Tls>>, String> {
        if !self.trusted_client.is_empty() && self.client_ca.is_none() {
            return Err("--trusted-client must be set together with --client-ca, which verifies \
                        client certificates"
                .to_owned());
        }
        match (&self.tls_cert, &self.tls_key, &self.client_ca) {
            (Some(cert), Some(key), client_ca) => {
                let client_ca = client_ca.clone();
                let files = TlsFiles { cert: cert.clone(), key: key.clone(), client_ca };
                let contents = files.by_flag().into_iter().map(|(flag, file)| {
                    let contents = read(flag, file)?;
                    if flag == "--tls-key" {
                        private_key(&contents).map_err(|what| problem(flag, file, &what))?;
                    }
                    Ok(contents)
                });
                let contents = contents.collect::<Result<_, String>>()?;
                Ok(Some(Arc::new(Tls::new(files, contents, self.trusted_client.clone())?)))
            }
            (None, None, None) => Ok(None),
            (None, None, Some(_)) => {
                Err("--client-ca must be set together with --tls-cert and --tls-key".to_owned())
            }
            (Some(_), None, _) => Err("--tls-cert must be set together with --tls-key".to_owned()),
            (None, Some(_), _) => Err("--tls-key must be set together with --tls-cert".to_owned()),
        }
    }
}

const VERIFY: &str = "set --jwt-secret-file, --jwt-public-key-file or --jwt-jwks-url";

/// Parses an `http://` or `https://` URL and its origin. Refuses a URL with a user, since a password must
/// not get into the log.
fn plain_url(url: &str) -> Option<(Uri, Origin)> {
    // The parser ignores a fragment.
    let url: Uri = Some(url).filter(|url| !url.contains('#'))?.parse().ok()?;
    let scheme = url.scheme().filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme))?;
    let origin = Origin::new(scheme, url.authority()?)?;
    Some((url, origin))
}

fn jwks_url(url: &str) -> Result<Uri, String> {
    // The URL is not quoted: it may contain a password.
    plain_url(url).map(|(url, _)| url).ok_or_else(|| {
        "--jwt-jwks-url is not the URL of a JWK set: it must be http://host:port/path or \
         https://host/path, without a user"
            .to_owned()
    })
}

fn public_url(url: &str) -> Result<Origin, String> {
    let alone = |(url, _): &(Uri, Origin)| url.path() == "/" && url.query().is_none();
    plain_url(url).filter(alone).map(|(_, origin)| origin).ok_or_else(|| {
        "--public-url is not a scheme and authority: it must be https://host or http://host:port, \
         without a path"
            .to_owned()
    })
}
