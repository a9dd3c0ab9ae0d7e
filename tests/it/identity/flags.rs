//! Invalid identity settings stop the start with one line and exit status 2.

use std::path::Path;

use markread_harness::certificates::{Authority, Certificate};
use markread_harness::openssl;

use crate::command_line::{self, Files, Variables, text};

/// An address where no server can listen, so that a server which should not start ends anyway.
const NOWHERE: &[&str] = &["--listen", "192.0.2.1:0", "--ops-listen", "127.0.0.1:0"];

/// Asserts that a start is refused with a line that has each of these words.
async fn assert_refused(args: &[&str], words: &[&str]) {
    command_line::assert_refused(&[NOWHERE, args].concat(), words).await;
}

/// Starts a server that is refused, and returns the line.
async fn refused(args: &[&str], variables: Variables<'_>) -> String {
    command_line::refused(2, &[&["serve"], NOWHERE, args].concat(), variables).await
}

/// Asserts that a start accepts these flags, and fails to listen afterwards.
async fn gets_past(args: &[&str]) {
    let line = command_line::refused(1, &[&["serve"], NOWHERE, args].concat(), &[]).await;
    assert!(line.contains("--listen"), "{line}");
}

/// Valid settings, each on its own.
struct Valid {
    files: Files,
    ca: Authority,
    secret: String,
    certificate: Certificate,
    credentials: String,
}

/// A valid credential.
const CREDENTIAL: &str = r#"[[credential]]
consumer_key = "hunter2-ck"
consumer_secret = "hunter2-cs"
access_token = "hunter2-at"
access_token_secret = "hunter2-ats"
user_id = "2244994945"
"#;

impl Valid {
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

/// Files that are invalid everywhere: missing, a directory, empty, garbage, another kind of PEM.
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
    let valid = Valid::new().await;
    let dir = Path::new(&valid.secret).parent().unwrap();
    openssl(dir, "genpkey -algorithm ed25519 -out private").await;
    openssl(dir, "pkey -in private -pubout -out public").await;
    let public = text(&valid.files.path("public"));
    let ways = [
        ("--jwt-secret-file", valid.secret.as_str()),
        ("--jwt-public-key-file", &public),
        ("--jwt-jwks-url", "http://127.0.0.1:1/keys"),
    ];
    for (one, value) in ways {
        for (other, other_value) in ways.into_iter().filter(|(other, _)| *other != one) {
            assert_refused(&[one, value, other, other_value], &[one, other, "one"]).await;
        }
    }
}

#[tokio::test]
async fn a_flag_that_needs_another_says_which() {
    let valid = Valid::new().await;
    let (ca, Certificate { chain, key }) = (valid.ca.file(), &valid.certificate);
    assert_refused(&valid.token(&["--tls-cert", chain]), &["--tls-cert", "--tls-key"]).await;
    assert_refused(&valid.token(&["--tls-key", key]), &["--tls-key", "--tls-cert"]).await;
    assert_refused(&valid.token(&["--client-ca", &ca]), &["--client-ca", "--tls-cert"]).await;
    let trusted = ["--trusted-client", "gateway.example"];
    assert_refused(&valid.token(&trusted), &["--trusted-client", "--client-ca"]).await;
    assert_refused(&valid.tls(&trusted), &["--trusted-client", "--client-ca"]).await;
    let proxied = ["--public-url", "https://api.example.com"];
    assert_refused(&valid.token(&proxied), &["--public-url", "--oauth1-credentials-file"]).await;
}

#[tokio::test]
async fn a_client_ca_alone_is_not_a_way_to_authenticate() {
    let valid = Valid::new().await;
    let (ca, Certificate { chain, key }) = (valid.ca.file(), &valid.certificate);
    let tls = ["--tls-cert", chain, "--tls-key", key];
    let ways = ["--jwt-secret-file", "--jwt-jwks-url", "--oauth1-credentials-file"];
    assert_refused(&tls, &ways).await;
    assert_refused(&[&tls[..], &["--client-ca", &ca]].concat(), &ways).await;
}

#[tokio::test]
async fn invalid_tls_files_are_refused() {
    let valid = Valid::new().await;
    let (ca, Certificate { chain, key }) = (valid.ca.file(), &valid.certificate);
    for bad in bad_files(&valid.files) {
        let with = |chain, key| valid.token(&["--tls-cert", chain, "--tls-key", key]);
        assert_refused(&with(&bad, key), &["--tls-cert", &bad]).await;
        assert_refused(&with(chain, &bad), &["--tls-key", &bad]).await;
        assert_refused(&valid.tls(&["--client-ca", &bad]), &["--client-ca", &bad]).await;
    }
    let other = valid.ca.issue("other", "DNS:localhost").await;
    let args = valid.token(&["--tls-cert", chain, "--tls-key", &other.key]);
    assert_refused(&args, &["--tls-key", "--tls-cert"]).await;
    // Certificate and key swapped.
    assert_refused(&valid.token(&["--tls-cert", key, "--tls-key", key]), &["--tls-cert"]).await;
    assert_refused(&valid.token(&["--tls-cert", chain, "--tls-key", chain]), &["--tls-key"]).await;
    assert_refused(&valid.tls(&["--client-ca", key]), &["--client-ca"]).await;
    gets_past(&valid.tls(&["--client-ca", &ca])).await;
}

#[tokio::test]
async fn a_trusted_client_needs_a_name() {
    let valid = Valid::new().await;
    let ca = valid.ca.file();
    assert_refused(
        &valid.tls(&["--client-ca", &ca, "--trusted-client", ""]),
        &["--trusted-client"],
    )
    .await;
    gets_past(&valid.tls(&["--client-ca", &ca, "--trusted-client", "gateway.example"])).await;
}

#[tokio::test]
async fn an_invalid_jwks_url_is_refused_without_its_password() {
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
            assert!(url.is_empty() || line.contains("https://"), "what is allowed: {line}");
        }
    }
}

#[tokio::test]
async fn a_public_url_is_scheme_and_authority() {
    let valid = Valid::new().await;
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
        let flags = ["--oauth1-credentials-file", &valid.credentials, "--public-url", url];
        let line = refused(&flags, &[]).await;
        assert!(line.contains("--public-url"), "{url:?}: {line}");
        assert!(!line.contains("hunter2"), "{url:?}: {line}");
        // One invalid URL of several is enough.
        let good = ["--public-url", "https://api.example.com"];
        assert_refused(&[&good[..], &flags].concat(), &["--public-url"]).await;
    }
    let flags = ["--oauth1-credentials-file", &valid.credentials];
    let good = ["--public-url", "https://API.example.com:8443", "--public-url", "http://[::1]"];
    gets_past(&[&flags[..], &good].concat()).await;
}

#[tokio::test]
async fn an_invalid_credentials_file_is_refused_without_secrets() {
    let valid = Valid::new().await;
    let flag = "--oauth1-credentials-file";
    for bad in bad_files(&valid.files) {
        let words = if bad.ends_with("empty") { vec![flag] } else { vec![flag, bad.as_str()] };
        assert_refused(&[flag, &bad], &words).await;
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
        let file = valid.files.write("broken", contents);
        let line = refused(&[flag, &file], &[]).await;
        assert!(line.contains(flag), "{what}: {line}");
        assert!(!line.contains("hunter2"), "{what}: {line}");
    }
    gets_past(&[flag, &valid.credentials]).await;
}

#[tokio::test]
async fn dev_excludes_every_identity_setting() {
    let valid = Valid::new().await;
    let ca = valid.ca.file();
    for (flag, value) in [
        ("--jwt-jwks-url", "http://127.0.0.1:1/keys"),
        ("--oauth1-credentials-file", &valid.credentials),
        ("--public-url", "https://api.example.com"),
        ("--client-ca", &ca),
        ("--trusted-client", "gateway.example"),
    ] {
        let loopback = ["--dev", "--listen", "127.0.0.1:0"];
        command_line::assert_refused(&[&loopback[..], &[flag, value]].concat(), &[flag, "--dev"])
            .await;
        let variable = format!("MARKREAD_{}", flag[2..].replace('-', "_").to_uppercase());
        let args = [&["serve"], &loopback[..]].concat();
        let line = command_line::refused(2, &args, &[(&variable, value)]).await;
        assert!(line.contains(flag) && line.contains("--dev"), "{line}");
    }
}
