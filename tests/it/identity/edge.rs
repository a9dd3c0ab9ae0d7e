//! A client of the HTTP endpoint.

use markread_harness::caller::Credentials;
use markread_harness::raw::error_codes;
use markread_harness::server::http1;
use markread_harness::{MESSAGE, RECIPIENT};

pub(crate) const PATH: &str = "/1.1/direct_messages/mark_read.json";

pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

/// A request in HTTP/1.1.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    /// Path and query.
    pub(crate) target: String,
    pub(crate) host: String,
    /// `name: value`
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

/// An answer, reduced to what `docs/contract.md` promises.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Post {
    /// Twitter's example, with these headers.
    pub(crate) fn example(headers: &[String]) -> Self {
        let form = format!("content-type: {FORM}");
        Self {
            target: PATH.to_owned(),
            host: "localhost".to_owned(),
            headers: [&[form], headers].concat(),
            body: format!("last_read_event_id={MESSAGE}&recipient_id={RECIPIENT}"),
        }
    }

    /// Twitter's example, with a gRPC caller's credentials.
    pub(crate) fn by(credentials: &Credentials) -> Self {
        match credentials {
            Credentials::Nothing => Self::example(&[]),
            Credentials::UserId(user) => Self::example(&[format!("x-user-id: {user}")]),
            Credentials::Authorization(value) => {
                Self::example(&[format!("authorization: {value}")])
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        let Self { target, host, headers, body } = self;
        let headers: String = headers.iter().flat_map(|header| [header, "\r\n"]).collect();
        let length = body.len();
        format!(
            "POST {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
             content-length: {length}\r\n{headers}\r\n{body}"
        )
    }

    pub(crate) async fn send(&self, address: &str) -> Answer {
        Answer::from(http1(address, &self.text()).await)
    }
}

impl From<Option<(String, String)>> for Answer {
    fn from(answer: Option<(String, String)>) -> Self {
        let (head, body) = answer.expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().expect("a status");
        Self { status, head: head.to_lowercase(), body }
    }
}

impl Answer {
    fn has(&self, header: &str) -> bool {
        self.head.contains(&format!("\r\n{header}: "))
    }

    #[track_caller]
    pub(crate) fn assert_served(&self, what: &str) {
        assert_eq!((self.status, self.body.as_str()), (204, ""), "{what}: {self:?}");
    }

    /// Asserts this status and one error with this code; a 401 says how to authenticate.
    #[track_caller]
    pub(crate) fn assert_refused(&self, status: u16, code: u64, what: &str) {
        self.assert_refused_as_one_of(status, &[code], what);
    }

    /// The same where `docs/contract.md` allows several codes.
    #[track_caller]
    pub(crate) fn assert_refused_as_one_of(&self, status: u16, codes: &[u64], what: &str) {
        assert_eq!(self.status, status, "{what}: {self:?}");
        let [code] = error_codes(&self.body)[..] else {
            panic!("{what}: not one error in {self:?}")
        };
        assert!(codes.contains(&code), "{what}: {self:?}");
        assert_eq!(self.has("www-authenticate"), status == 401, "{what}: {self:?}");
    }
}
