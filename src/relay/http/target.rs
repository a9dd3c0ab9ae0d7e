//! The URL of a webhook.

use std::net::{IpAddr, SocketAddr};

use http::Uri;
use rustls::pki_types::ServerName;
use url::{Host, Url};

use super::addresses::special;
use crate::relay::webhook::Targets;

/// A URL that requests are sent to.
#[derive(Clone)]
pub(in crate::relay) struct Target {
    /// For requests.
    pub uri: Uri,
    /// Whether it is `https://`.
    pub is_https: bool,
    /// Where its connections go to.
    pub(super) endpoint: Endpoint,
    url: Url,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The host, in the one spelling that URLs have for it: lower case, IPv4 as four decimal numbers.
    pub host: Host<String>,
    /// The port.
    pub port: u16,
}

impl Target {
    /// Parses the URL of a webhook.
    ///
    /// # Errors
    ///
    /// What is wrong with it, after the member's name. The URL is not quoted: it may contain a secret.
    pub(in crate::relay) fn parse(text: &str, targets: Targets) -> Result<Self, String> {
        let url = parse_url(text, if targets.allow_http { &["https", "http"] } else { &["https"] })
            .map_err(|problem| {
                let is_http = text.get(..5).is_some_and(|text| text.eq_ignore_ascii_case("http:"));
                let hint = if is_http && !targets.allow_http { " (see --allow-http)" } else { "" };
                problem + hint
            })?;
        if url.username() != "" || url.password().is_some() {
            return Err("must not have a user or a password".to_owned());
        }
        if url.fragment().is_some() {
            return Err("must not have a fragment (#)".to_owned());
        }
        let endpoint = Endpoint::of(&url)?;
        if let Some(what) = endpoint.special_literal()
            && !targets.allow_private
        {
            return Err(format!("leads to an address that is {what} (see --allow-private)"));
        }
        let uri = url.as_str().parse().map_err(|_| "is not a URL that HTTP can carry")?;
        Ok(Self { uri, is_https: url.scheme() == "https", endpoint, url })
    }

    /// Returns the URL with one more parameter, whose value needs no escaping.
    pub(in crate::relay) fn uri_with(&self, name: &str, value: &str) -> Option<Uri> {
        let separator = match self.url.query() {
            None => "?",
            Some("") => "",
            Some(_) => "&",
        };
        format!("{}{separator}{name}={value}", self.url).parse().ok()
    }

    /// Returns the URL in its one spelling.
    pub(in crate::relay) fn as_str(&self) -> &str {
        self.url.as_str()
    }
}

impl Endpoint {
    /// Returns that of a URL.
    ///
    /// # Errors
    ///
    /// What is wrong with it, after the member's name.
    pub(super) fn of(url: &Url) -> Result<Self, String> {
        let host = url.host().ok_or("must name a host")?.to_owned();
        let port = url.port_or_known_default().filter(|port| *port != 0);
        Ok(Self { host, port: port.ok_or("must not have the port 0")? })
    }

    /// Returns the address, if the host is not a name.
    pub(super) fn literal(&self) -> Option<SocketAddr> {
        let address = match self.host {
            Host::Domain(_) => return None,
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
        };
        Some(SocketAddr::new(address, self.port))
    }

    /// Returns what is special about the host, if that is known without a look at the DNS (RFC 6761 for
    /// `localhost`).
    fn special_literal(&self) -> Option<&'static str> {
        match &self.host {
            Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                let last = name.rsplit('.').next();
                last.is_some_and(|last| last == "localhost").then_some("loopback")
            }
            Host::Ipv4(address) => special(IpAddr::V4(*address)),
            Host::Ipv6(address) => special(IpAddr::V6(*address)),
        }
    }

    /// Returns the name that a certificate must have.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        match &self.host {
            Host::Domain(name) => {
                ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned()).ok()
            }
            Host::Ipv4(address) => Some(ServerName::from(IpAddr::V4(*address))),
            Host::Ipv6(address) => Some(ServerName::from(IpAddr::V6(*address))),
        }
    }
}

/// Parses an absolute URL of one of some schemes.
///
/// # Errors
///
/// What is wrong with it, after the member's name.
pub(super) fn parse_url(text: &str, schemes: &[&str]) -> Result<Url, String> {
    let of_scheme = || format!("must be an absolute {}:// URL", schemes.join(":// or "));
    // The parser repairs what browsers repair: slashes that are missing, spaces, line breaks.
    let is_absolute = text.split_once("://").is_some_and(|(scheme, _)| {
        schemes.iter().any(|allowed| scheme.eq_ignore_ascii_case(allowed))
    });
    let is_printable = !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\');
    if !is_absolute || !is_printable {
        return Err(of_scheme());
    }
    // Its errors are words of their own, such as "invalid international domain name".
    Url::parse(text).map_err(|error| format!("{}: {error}", of_scheme()))
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: Targets = Targets { allow_http: false, allow_private: false };
    const ANY: Targets = Targets { allow_http: true, allow_private: true };

    #[test]
    fn every_spelling_of_an_inner_address_is_refused() {
        for host in "127.0.0.1 127.0.0.1. 2130706433 0x7f000001 0x7f.1 0177.0.0.1 127.1 0 0.0.0.0 \
                     [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:7f00:0001] \
                     [::127.0.0.1] 10.1 192.168.257 0300.0250.1.1 3232235777 169.254.169.254 \
                     0xA9FEA9FE [::ffff:a9fe:a9fe] [fd00:ec2::254] 168.63.129.16 100.100.100.200 \
                     [64:ff9b::127.0.0.1] [2002:7f00:1::] [fe80::1] [fec0::1] 224.0.0.1 \
                     255.255.255.255 localhost LOCALHOST localhost. a.localhost 127%2e0.0.1 \
                     %6cocalhost １２７.0.0.1 ⓛⓞⓒⓐⓛⓗⓞⓢⓣ 127。0。0。1 0x7F.0x0.0x0.0x1 017700000001 \
                     192.0.0.192 198.18.0.1 203.0.113.7 240.1.1.1"
            .split_whitespace()
        {
            for port in ["", ":443", ":8080"] {
                let url = format!("https://{host}{port}/path");
                let problem = Target::parse(&url, PUBLIC).unwrap_err();
                assert!(problem.contains("--allow-private"), "{url}: {problem}");
                assert!(Target::parse(&url, ANY).is_ok(), "{url}");
            }
        }
    }

    #[test]
    fn only_a_plain_absolute_url_is_one() {
        for (url, problem) in [
            ("", "absolute https://"),
            ("example.com/hook", "absolute https://"),
            ("/hook", "absolute https://"),
            ("https:example.com", "absolute https://"),
            ("https:\\\\example.com", "absolute https://"),
            (" https://example.com", "absolute https://"),
            ("https://exa\nmple.com", "absolute https://"),
            ("ftp://example.com", "absolute https://"),
            ("http://example.com", "--allow-http"),
            ("https://", "absolute https://"),
            ("https://256.256.256.256/", "absolute https://"),
            ("https://1.2.3.4.5/", "absolute https://"),
            ("https://exa%00mple.com/", "absolute https://"),
            ("https://[::1/", "absolute https://"),
            ("https://[fe80::1%25eth0]/", "absolute https://"),
            ("https://example.com:65536/", "absolute https://"),
            ("https://example.com:0/", "port 0"),
            ("https://user@example.com/", "user or a password"),
            ("https://user:hush@example.com/", "user or a password"),
            ("https://:hush@example.com/", "user or a password"),
            ("https://example.com/#hush", "fragment"),
        ] {
            let found = Target::parse(url, PUBLIC).unwrap_err();
            assert!(found.contains(problem), "{url}: {found}");
            assert!(!found.contains("hush"), "{found}");
        }
        assert!(Target::parse("http://example.com/", ANY).is_ok());
    }

    #[test]
    fn a_name_has_one_spelling() {
        for (url, host, port, name) in [
            ("https://Example.COM/a", "example.com", 443, "example.com"),
            ("https://example.com.:8443/", "example.com.", 8443, "example.com"),
            ("https://bücher.example/", "xn--bcher-kva.example", 443, "xn--bcher-kva.example"),
            ("https://1.1.1.1/", "1.1.1.1", 443, "1.1.1.1"),
        ] {
            let target = Target::parse(url, PUBLIC).unwrap();
            assert_eq!((&*target.endpoint.host.to_string(), target.endpoint.port), (host, port));
            assert_eq!(target.endpoint.server_name().unwrap().to_str(), name);
        }
    }

    #[test]
    fn a_parameter_is_added_to_those_of_the_url() {
        for (url, with) in [
            ("https://a.example", "https://a.example/?t=1"),
            ("https://a.example/h?", "https://a.example/h?t=1"),
            ("https://a.example/h?a=%20b", "https://a.example/h?a=%20b&t=1"),
        ] {
            let target = Target::parse(url, PUBLIC).unwrap();
            assert_eq!(target.uri_with("t", "1").unwrap().to_string(), with);
        }
    }
}
