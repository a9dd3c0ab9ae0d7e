//! The file of `--oauth1-credentials-file`: which tokens may sign, with which secrets, for which user.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::hmac;
use serde::Deserialize;

use super::encode;
use crate::domain::UserId;

/// The credentials in the file, by consumer key, then access token.
#[derive(Debug, Default)]
pub(super) struct CredentialsFile(HashMap<String, HashMap<String, Credential>>);

/// The credential of a consumer key and an access token.
pub(super) struct Credential {
    /// The user who signs.
    pub user: UserId,
    /// HMAC key of both secrets (RFC 5849 section 3.4.2).
    pub signing_key: hmac::Key,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

impl CredentialsFile {
    /// Parses the file's contents.
    ///
    /// # Errors
    ///
    /// The problem, as the end of a sentence. It never quotes the contents, which are secrets.
    pub(super) fn parse(contents: &[u8]) -> Result<Self, String> {
        // A file is empty for a moment while it is rewritten. A comment alone means no credentials.
        if contents.is_empty() {
            return Err("is empty".to_owned());
        }
        let text = std::str::from_utf8(contents).map_err(|_| "is not UTF-8 text")?;
        let file: File = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            format!("is invalid at line {line}: it must have {FORM}")
        })?;
        let mut credentials = Self::default();
        for (index, entry) in file.credential.into_iter().enumerate() {
            let problem =
                |what: &str| format!("is invalid at [[credential]] {}: {what}", index + 1);
            let values = [
                ("consumer_key", &entry.consumer_key),
                ("consumer_secret", &entry.consumer_secret),
                ("access_token", &entry.access_token),
                ("access_token_secret", &entry.access_token_secret),
            ];
            if let Some((name, _)) = values.iter().find(|(_, value)| value.is_empty()) {
                return Err(problem(&format!("{name} is empty")));
            }
            let user = entry.user_id.parse().map_err(|what| problem(&format!("user_id {what}")))?;
            let key = format!(
                "{}&{}",
                encode(&entry.consumer_secret),
                encode(&entry.access_token_secret)
            );
            let signing_key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
            let of_consumer = credentials.0.entry(entry.consumer_key).or_default();
            let before = of_consumer.insert(entry.access_token, Credential { user, signing_key });
            if before.is_some() {
                return Err(problem("duplicate consumer_key and access_token"));
            }
        }
        Ok(credentials)
    }

    /// Returns the credential of a consumer key and an access token.
    pub(super) fn get(&self, consumer_key: &str, access_token: &str) -> Option<&Credential> {
        self.0.get(consumer_key)?.get(access_token)
    }
}

const FORM: &str = "[[credential]] tables with consumer_key, consumer_secret, access_token, \
                    access_token_secret and user_id, all strings";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    credential: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    consumer_key: String,
    consumer_secret: String,
    access_token: String,
    access_token_secret: String,
    user_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"
        [[credential]]
        consumer_key = "ck"
        consumer_secret = "hush-consumer"
        access_token = "at"
        access_token_secret = "hush-token"
        user_id = "7"
    "#;

    #[test]
    fn a_file_holds_any_number_of_credentials() {
        assert!(CredentialsFile::parse(b"# none").unwrap().get("ck", "at").is_none());
        let two =
            format!("{ENTRY}{}", ENTRY.replace("\"at\"", "\"other\"").replace("\"7\"", "\"8\""));
        let credentials = CredentialsFile::parse(two.as_bytes()).unwrap();
        assert_eq!(credentials.get("ck", "at").unwrap().user.get(), 7);
        assert_eq!(credentials.get("ck", "other").unwrap().user.get(), 8);
        assert!(credentials.get("at", "ck").is_none());
        assert!(!format!("{credentials:?}").contains("hush"));
    }

    #[test]
    fn errors_never_contain_a_secret() {
        let table = [
            (ENTRY.replace("[[credential]]", "[[credentials]]"), "line 2"),
            (ENTRY.replace("\"hush-consumer\"", "12345hush"), "line 4"),
            (ENTRY.replace("\"hush-token\"", "[\"hush\"]"), "line 6"),
            (ENTRY.replace("\"7\"", "7"), "line 7"),
            (ENTRY.replace("user_id", "user"), "line"),
            (ENTRY.replace("\"7\"", "\"07\""), "[[credential]] 1: user_id is not a number"),
            (ENTRY.replace("\"hush-token\"", "\"\""), "1: access_token_secret is empty"),
            (
                format!("{ENTRY}{ENTRY}"),
                "[[credential]] 2: duplicate consumer_key and access_token",
            ),
            ("hush".to_owned(), "line 1"),
        ];
        for (contents, expected) in table {
            let problem = CredentialsFile::parse(contents.as_bytes()).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
            assert!(!problem.contains("hush") && !problem.contains("12345"), "{problem}");
            assert!(!problem.contains('\n'), "{problem}");
        }
        assert_eq!(CredentialsFile::parse(b"\xff").unwrap_err(), "is not UTF-8 text");
        assert_eq!(CredentialsFile::parse(b"").unwrap_err(), "is empty");
    }
}
