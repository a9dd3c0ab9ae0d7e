//! The scheme and authority that clients sign: the request's, or those of `--public-url`.

use markread_harness::Redis;
use markread_harness::certificates::Authority;
use markread_harness::tls::TlsClient;

use super::{CredentialsFile, reader};
use crate::identity::edge::{Answer, PATH};

#[tokio::test]
async fn the_signed_host_is_lower_case_without_a_default_port() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &[]).await;
    for (host, origin, holds) in [
        ("api.example.com", "http://api.example.com", true),
        ("API.Example.COM", "http://api.example.com", true),
        ("api.example.com:80", "http://api.example.com", true),
        ("API.example.com:8080", "http://api.example.com:8080", true),
        ("api.example.com:443", "http://api.example.com:443", true),
        ("[::1]:8080", "http://[::1]:8080", true),
        ("api.example.com", "http://API.Example.COM", false),
        ("api.example.com:80", "http://api.example.com:80", false),
        ("api.example.com:443", "http://api.example.com", false),
        ("api.example.com:8080", "http://api.example.com", false),
        ("api.example.com", "http://api.example.com:8080", false),
        ("api.example.com", "http://other.example.com", false),
        ("api.example.com", "https://api.example.com", false),
        ("api.example.com:443", "https://api.example.com", false),
    ] {
        let mut signed = reader().call(&server.address).to(origin).sign();
        host.clone_into(&mut signed.post.host);
        let answer = signed.send().await;
        let what = format!("{origin} at {host}");
        if holds {
            answer.assert_served(&what);
        } else {
            answer.assert_refused(401, 32, &what);
        }
    }
}

#[tokio::test]
async fn over_tls_https_is_signed() {
    let redis = Redis::start().await;
    let authority = Authority::new().await;
    let certificate = authority.issue("server", "DNS:localhost").await;
    let file = CredentialsFile::of(&[&reader()]);
    let flags = ["--tls-cert", &certificate.chain, "--tls-key", &certificate.key];
    let server = file.serve(&redis, &flags).await;
    let client = TlsClient::new(&authority, None);
    for (host, origin, holds) in [
        ("api.example.com", "https://api.example.com", true),
        ("api.example.com:443", "https://api.example.com", true),
        ("api.example.com:8443", "https://api.example.com:8443", true),
        ("api.example.com:80", "https://api.example.com:80", true),
        ("api.example.com", "http://api.example.com", false),
        ("api.example.com:80", "http://api.example.com", false),
        ("api.example.com:443", "https://api.example.com:443", false),
    ] {
        let mut signed = reader().call(&server.address).to(origin).sign();
        host.clone_into(&mut signed.post.host);
        let answer = Answer::from(client.http1(&server.address, &signed.post().text()).await);
        let what = format!("{origin} at {host}");
        if holds {
            answer.assert_served(&what);
        } else {
            answer.assert_refused(401, 32, &what);
        }
    }
}

#[tokio::test]
async fn with_public_urls_the_requests_host_does_not_matter() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let urls = ["https://api.example.com", "http://Internal.example:80", "https://b.example:8443"];
    let flags = urls.map(|url| ["--public-url", url]).concat();
    let server = file.serve(&redis, &flags).await;
    let own = format!("http://{}", server.address);
    for (origin, holds) in [
        ("https://api.example.com", true),
        ("http://internal.example", true),
        ("https://b.example:8443", true),
        ("http://api.example.com", false),
        ("https://b.example", false),
        ("https://internal.example", false),
        (own.as_str(), false),
    ] {
        for host in [&server.address, "whatever.example:1"] {
            let mut signed = reader().call(&server.address).to(origin).sign();
            host.clone_into(&mut signed.post.host);
            let answer = signed.send().await;
            let what = format!("{origin} at {host}");
            if holds {
                answer.assert_served(&what);
            } else {
                answer.assert_refused(401, 32, &what);
            }
        }
    }
    // A signature is good for one call, whichever URL it was made for.
    let signed = reader().call(&server.address).to(urls[0]).sign();
    signed.send().await.assert_served("first");
    signed.send().await.assert_refused(401, 32, "again");
}

#[tokio::test]
async fn headers_of_a_proxy_are_not_trusted() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &[]).await;
    let forwarded = [
        "forwarded: proto=https;host=api.example.com",
        "x-forwarded-proto: https",
        "x-forwarded-host: api.example.com",
        "x-forwarded-port: 443",
        "x-forwarded-ssl: on",
        "x-original-host: api.example.com",
        "x-original-url: /1.1/other.json",
    ];
    let forwarded = forwarded.map(str::to_owned);
    let mut signed = reader().call(&server.address).to("https://api.example.com").sign();
    signed.post.headers.extend(forwarded.clone());
    signed.send().await.assert_refused(401, 32, "signed for the proxy");

    let mut signed = reader().call(&server.address).sign();
    signed.post.headers.extend(forwarded);
    signed.send().await.assert_served("signed for the server");
}

#[tokio::test]
async fn a_signature_for_another_path_is_refused() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &[]).await;
    for path in [
        "/1.1/direct_messages/new.json",
        "/1.1/direct_messages/mark_read.json/",
        "/1.1/direct_messages/mark_read",
        "/1.1/Direct_Messages/mark_read.json",
        "",
        "/",
    ] {
        let mut call = reader().call(&server.address);
        call.uri = call.uri.replace(PATH, path);
        call.send().await.assert_refused(401, 32, path);
    }
}
