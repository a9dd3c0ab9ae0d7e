//! Settings of identity that make no sense stop the start: one line, exit status 2.

use std::path::Path;

use super::super::command_line::{self, Files, Variables, text};
use super::super::harness::certificates::{Authority, Certificate};
use super::super::harness::openssl;

/// Where no server can listen, so that one that should not start ends anyhow.
const NOWHERE: &[&str] = &["--listen", "192.0.2.1:0", "--ops-listen", "127.0.0.1:0"];

/// A start is refused for one of these flags, with a line that has each of these words.
async fn says(args: &[&str], words: &[&str]) {
    command_line::says(&[NOWHERE, args].concat(), words).await;
}

/// A start is refused: the line.
async fn refused(args: &[&str], variables: Variables<'_>) -> String {
    command_line::refused(2, &[&["serve"], NOWHERE, args].concat(), variables).await
}

/// A start gets past these flags, to where it cannot listen.
async fn gets_past(args: &[&str]) {
    let line = command_line::refused(1, &[&["serve"], NOWHERE, args].concat(), &[]).await;
    assert!(line.contains("--listen"), "{line}");
}

/// Settings that are right, each for itself.
struct Right {
    files: Files,
    ca: Authority,
    secret: String,
    certificate: Certificate,
    credentials: String,
}

/// One credential, and what may be done to it.
const CREDENTIAL: &str = r#"[[credential]]
consumer_key = "hunter2-ck"
consumer_secret = "hunter2-cs"
access_token = "hunter2-at"
access_token_secret = "hunter2-ats"
user_id = "2244994945"
"#;

impl Right {
    async fn new() -> Self {
        let files = Files::new();
        let ca = Authority::new().await;
        let certificate = ca.issue("server", "DNS:localhost").await;
        let (secret, credentials) = (files.secret(), files.write("credentials", CREDENTIAL));
        Self { files, ca, secret, certificate, credentials }
    }

    fn token<'a>(&'a self, flags: &[&'a str]) -> Vec<&'a str> {
        [&["--jwt-secret-file", self.secret.as_str()], flags].concat()
    }

    fn tls<'a>(&'a self, flags: &[&'a str]) -> Vec<&'a str> {
        let Certificate { chain, key } = &self.certificate;
        self.token(&[&["--tls-cert", chain.as_str(), "--tls-key", key], flags].concat())
    }
}

/// Files that are none of a kind: missing, a directory, empty, trash, another kind of PEM.
fn bad_files(files: &Files) -> Vec<String> {
    let pem = "-----BEGIN NONSENSE-----\nbm8ga2V5\n-----END NONSENSE-----\n";
    vec![
        text(&files.path("missing")),
        text(files.path("missing").parent().unwrap()),
        files.write("empty", ""),
        files.write("trash", "trash"),
        files.write("bytes", [0xff; 1000]),
        files.write("pem", pem),
    ]
}

#[tokio::test]
async fn there_is_one_way_to_verify_tokens() {
    let right = Right::new().await;
    let dir = Path::new(&right.secret).parent().unwrap();
    openssl(dir, "genpkey -algorithm ed25519 -out private").await;
    openssl(dir, "pkey -in private -pubout -out public").await;
    let public = text(&right.files.path("public"));
    let ways = [
        ("--jwt-secret-file", right.secret.as_str()),
        ("--jwt-public-key-file", &public),
        ("--jwt-jwks-url", "http://127.0.0.1:1/keys"),
    ];
    for (one, value) in ways {
        for (other, other_value) in ways.into_iter().filter(|(other, _)| *other != one) {
            says(&[one, value, other, other_value], &[one, other, "one"]).await;
        }
    }
}

#[tokio::test]
async fn what_needs_another_flag_says_which() {
    let right = Right::new().await;
    let (ca, Certificate { chain, key }) = (right.ca.file(), &right.certificate);
    says(&right.token(&["--tls-cert", chain]), &["--tls-cert", "--tls-key"]).await;
    says(&right.token(&["--tls-key", key]), &["--tls-key", "--tls-cert"]).await;
    says(&right.token(&["--client-ca", &ca]), &["--client-ca", "--tls-cert"]).await;
    let trusted = ["--trusted-client", "gateway.example"];
    says(&right.token(&trusted), &["--trusted-client", "--client-ca"]).await;
    says(&right.tls(&trusted), &["--trusted-client", "--client-ca"]).await;
    let proxied = ["--public-url", "https://api.example.com"];
    says(&right.token(&proxied), &["--public-url", "--oauth1-credentials-file"]).await;
}

#[tokio::test]
async fn a_client_certificate_alone_is_no_way_to_authenticate() {
    let right = Right::new().await;
    let (ca, Certificate { chain, key }) = (right.ca.file(), &right.certificate);
    let tls = ["--tls-cert", chain, "--tls-key", key];
    let ways = ["--jwt-secret-file", "--jwt-jwks-url", "--oauth1-credentials-file"];
    says(&tls, &ways).await;
    says(&[&tls[..], &["--client-ca", &ca]].concat(), &ways).await;
}

#[tokio::test]
async fn files_of_tls_that_are_none_are_refused() {
    let right = Right::new().await;
    let (ca, Certificate { chain, key }) = (right.ca.file(), &right.certificate);
    for bad in bad_files(&right.files) {
        let with = |chain, key| right.token(&["--tls-cert", chain, "--tls-key", key]);
        says(&with(&bad, key), &["--tls-cert", &bad]).await;
        says(&with(chain, &bad), &["--tls-key", &bad]).await;
        says(&right.tls(&["--client-ca", &bad]), &["--client-ca", &bad]).await;
    }
    let other = right.ca.issue("other", "DNS:localhost").await;
    let args = right.token(&["--tls-cert", chain, "--tls-key", &other.key]);
    says(&args, &["--tls-key", "--tls-cert"]).await;
    // Each in the other's place.
    says(&right.token(&["--tls-cert", key, "--tls-key", key]), &["--tls-cert"]).await;
    says(&right.token(&["--tls-cert", chain, "--tls-key", chain]), &["--tls-key"]).await;
    says(&right.tls(&["--client-ca", key]), &["--client-ca"]).await;
    gets_past(&right.tls(&["--client-ca", &ca])).await;
}

#[tokio::test]
async fn a_trusted_client_has_a_name() {
    let right = Right::new().await;
    let ca = right.ca.file();
    says(&right.tls(&["--client-ca", &ca, "--trusted-client", ""]), &["--trusted-client"]).await;
    gets_past(&right.tls(&["--client-ca", &ca, "--trusted-client", "gateway.example"])).await;
}

#[tokio::test]
async fn a_jwks_url_that_is_none_is_refused_without_its_password() {
    for url in [
        "",
        "keys",
        "/keys",
        "issuer.example/keys",
        "http://",
        "http:///keys",
        "https://:443/keys",
        "ftp://issuer.example/keys",
        "file:///etc/keys",
        "http://issuer example/keys",
        "http://issuer.example:port/keys",
        "http://issuer.example:99999/keys",
        "https://user:hunter2@issuer.example/keys",
        "https://hunter2@issuer.example/keys",
        "ftp://user:hunter2@issuer.example/keys",
        "user:hunter2@issuer.example/keys",
    ] {
        for line in [
            refused(&["--jwt-jwks-url", url], &[]).await,
            refused(&[], &[("MARKREAD_JWT_JWKS_URL", url)]).await,
        ] {
            assert!(line.contains("--jwt-jwks-url"), "{url:?}: {line}");
            assert!(!line.contains("hunter2"), "{url:?}: {line}");
            assert!(url.is_empty() || line.contains("https://"), "what would be right: {line}");
        }
    }
}

#[tokio::test]
async fn a_public_url_is_scheme_and_authority() {
    let right = Right::new().await;
    for url in [
        "",
        "api.example.com",
        "api.example.com:443",
        "//api.example.com",
        "https://",
        "https://:443",
        "ftp://api.example.com",
        "https://api.example.com/1.1",
        "https://api.example.com?a=b",
        "https://api.example.com#a",
        "https://api.example.com:port",
        "https://api.example.com:99999",
        "https://user:hunter2@api.example.com",
    ] {
        let flags = ["--oauth1-credentials-file", &right.credentials, "--public-url", url];
        let line = refused(&flags, &[]).await;
        assert!(line.contains("--public-url"), "{url:?}: {line}");
        assert!(!line.contains("hunter2"), "{url:?}: {line}");
        // One of several is enough.
        let good = ["--public-url", "https://api.example.com"];
        says(&[&good[..], &flags].concat(), &["--public-url"]).await;
    }
    let flags = ["--oauth1-credentials-file", &right.credentials];
    let good = ["--public-url", "https://API.example.com:8443", "--public-url", "http://[::1]"];
    gets_past(&[&flags[..], &good].concat()).await;
}

#[tokio::test]
async fn a_credentials_file_that_is_none_is_refused_without_its_secrets() {
    let right = Right::new().await;
    let flag = "--oauth1-credentials-file";
    for bad in bad_files(&right.files) {
        let words = if bad.ends_with("empty") { vec![flag] } else { vec![flag, bad.as_str()] };
        says(&[flag, &bad], &words).await;
    }
    let member = |name: &str| {
        let line = CREDENTIAL.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.expect(name).to_owned()
    };
    let mut broken = vec![
        ("half of it".to_owned(), CREDENTIAL[..CREDENTIAL.len() / 2].to_owned()),
        ("an unknown member".to_owned(), format!("{CREDENTIAL}more = \"hunter2\"\n")),
        ("an unknown table".to_owned(), format!("{CREDENTIAL}[hunter2]\na = \"hunter2\"\n")),
        ("another name".to_owned(), CREDENTIAL.replace("[[credential]]", "[[credentials]]")),
        ("one table".to_owned(), CREDENTIAL.replace("[[credential]]", "[credential]")),
        ("no user".to_owned(), CREDENTIAL.replace("2244994945", "hunter2")),
        ("user 0".to_owned(), CREDENTIAL.replace("2244994945", "0")),
        ("user 007".to_owned(), CREDENTIAL.replace("2244994945", "007")),
        ("user 2^63".to_owned(), CREDENTIAL.replace("2244994945", "9223372036854775808")),
        ("the same token twice".to_owned(), CREDENTIAL.repeat(2)),
    ];
    for name in
        ["consumer_key", "consumer_secret", "access_token", "access_token_secret", "user_id"]
    {
        let line = member(name);
        let (_, value) = line.split_once(" = ").unwrap();
        for (what, changed) in [
            ("missing", String::new()),
            ("twice", format!("{line}\n{line}")),
            ("a list", line.replace(value, &format!("[{value}]"))),
            ("a number", line.replace(value, "1")),
            ("without quotes", line.replace('"', "")),
            ("an open quote", line.trim_end_matches('"').to_owned()),
            ("without a name", value.to_owned()),
        ] {
            broken.push((format!("{name}: {what}"), CREDENTIAL.replace(&line, &changed)));
        }
    }
    for (what, contents) in broken {
        let file = right.files.write("broken", contents);
        let line = refused(&[flag, &file], &[]).await;
        assert!(line.contains(flag), "{what}: {line}");
        assert!(!line.contains("hunter2"), "{what}: {line}");
    }
    gets_past(&[flag, &right.credentials]).await;
}

#[tokio::test]
async fn dev_goes_with_no_setting_of_identity() {
    let right = Right::new().await;
    let ca = right.ca.file();
    for (flag, value) in [
        ("--jwt-jwks-url", "http://127.0.0.1:1/keys"),
        ("--oauth1-credentials-file", &right.credentials),
        ("--public-url", "https://api.example.com"),
        ("--client-ca", &ca),
        ("--trusted-client", "gateway.example"),
    ] {
        let loopback = ["--dev", "--listen", "127.0.0.1:0"];
        command_line::says(&[&loopback[..], &[flag, value]].concat(), &[flag, "--dev"]).await;
        let variable = format!("MARKREAD_{}", flag[2..].replace('-', "_").to_uppercase());
        let args = [&["serve"], &loopback[..]].concat();
        let line = command_line::refused(2, &args, &[(&variable, value)]).await;
        assert!(line.contains(flag) && line.contains("--dev"), "{line}");
    }
}
