//! Invalid parameters: 400 with an entry for each bad field, and the quota is not touched.

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;

use super::client::{BOTH, HttpRequest, Version};
use super::{EXAMPLE, PATH, assert_refused};
use crate::bad_input::Target;

/// Invalid IDs that may be in a query as well as in a body.
const INVALID_IDS: [&str; 49] = [
    "0",
    "00",
    "01",
    "-1",
    "-0",
    "+1",
    "%2B1",
    "%201",
    "1%20",
    "+",
    "1+",
    "1%0A",
    "%0D%0A1",
    "%091",
    "1%00",
    "%00",
    "%001",
    "1e3",
    "1E3",
    "1.0",
    "1.",
    ".1",
    "0x10",
    "0b1",
    "0o7",
    "1_000",
    "1,000",
    "1;2",
    "NaN",
    "Infinity",
    "null",
    "true",
    "[1]",
    "\"1\"",
    // Digits outside ASCII: Arabic, wide, mathematical, a superscript.
    "%D9%A3",
    "%EF%BC%91",
    "%F0%9D%9F%8F",
    "%C2%B9",
    // Percent-encoding that is broken, overlong, of half a character, or double.
    "%",
    "1%",
    "1%3",
    "1%zz",
    "%u0031",
    "%C0%B1",
    "%E0%80%B1",
    "%FF1",
    "%2531",
    // The first number above the greatest ID, and one that overflows to a valid ID.
    "9223372036854775808",
    "18446744073709551617",
];

/// Invalid IDs of bytes that only a body may have.
const INVALID_IDS_OF_BYTES: [&[u8]; 13] = [
    b" 1",
    b"1 ",
    b"\t1",
    b"1\n",
    b"1\r\n",
    b"\x001",
    b"1\x00",
    b"\xff",
    b"1\xff",
    b"\xc0\xb1",
    "٣".as_bytes(),
    "１".as_bytes(),
    "\u{feff}1".as_bytes(),
];

/// Parameters with this ID as the one, as the other, and as both.
fn forms_with(invalid_id: &[u8]) -> [(Vec<u8>, &'static [u64]); 3] {
    let with = |message: &[u8], recipient: &[u8]| {
        [b"last_read_event_id=", message, b"&recipient_id=", recipient].concat()
    };
    [
        (with(b"7", invalid_id), &[44]),
        (with(invalid_id, b"7"), &[44]),
        (with(invalid_id, invalid_id), &[44, 44]),
    ]
}

#[tokio::test]
async fn an_invalid_id_is_400_with_44_and_an_entry_for_each() {
    let target = Target::start().await;
    let raw = target.raw().await;
    let digits = ["9".repeat(400), "0".repeat(400), format!("{}7", "0".repeat(30))];
    for invalid_id in INVALID_IDS.into_iter().chain(digits.iter().map(String::as_str)) {
        for (parameters, codes) in forms_with(invalid_id.as_bytes()) {
            let query = String::from_utf8(parameters.clone()).unwrap();
            for request in
                [HttpRequest::form(parameters), HttpRequest::query(&query.replace('"', "%22"))]
            {
                let answer = request.on(&raw).await.unwrap();
                assert_eq!(answer.status, 400, "{query}: {answer:?}");
                assert_refused(&answer, 400, codes);
                assert_refused(&request.over(Version::Http1, &target.server).await, 400, codes);
            }
        }
    }
    for invalid_id in INVALID_IDS_OF_BYTES {
        for (parameters, codes) in forms_with(invalid_id) {
            for version in BOTH {
                let answer =
                    HttpRequest::form(parameters.clone()).over(version, &target.server).await;
                assert_eq!(answer.status, 400, "{invalid_id:?}: {answer:?}");
                assert_refused(&answer, 400, codes);
            }
        }
    }
    target.assert_unharmed_after(0).await;
}

/// Asserts the codes of each query with its body.
async fn assert_all_refused(table: &[(&str, &str, &[u64])]) {
    let target = Target::start().await;
    for (query, body, codes) in table {
        for version in BOTH {
            let request = HttpRequest::form((*body).to_owned()).target(&format!("{PATH}?{query}"));
            let answer = request.over(version, &target.server).await;
            assert_eq!(answer.status, 400, "{query} {body}: {answer:?}");
            assert_eq!(answer.error_codes(), *codes, "{query} {body}: {answer:?}");
            assert_refused(&answer, 400, codes);
        }
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn a_parameter_that_is_missing_or_empty_is_400_with_38() {
    assert_all_refused(&[
        ("", "", &[38, 38]),
        ("recipient_id=7", "", &[38]),
        ("", "recipient_id=7", &[38]),
        ("", "last_read_event_id=7", &[38]),
        ("", "recipient_id=7&last_read_event_id=", &[38]),
        ("", "recipient_id=7&last_read_event_id", &[38]),
        ("recipient_id=&last_read_event_id=", "", &[38, 38]),
        ("recipient_id&last_read_event_id", "", &[38, 38]),
        ("recipient_id=", "last_read_event_id=7&recipient_id=", &[38]),
        // Names are matched exactly.
        ("", "last_read_event_id=7&Recipient_ID=7", &[38]),
        ("", "last_read_event_id=7&recipient_id[]=7", &[38]),
        ("", "last_read_event_id=7&recipientId=7", &[38]),
        ("", "last_read_event_id=7&+recipient_id=7", &[38]),
        ("", "last_read_event_id=7&recipient_id%00=7", &[38]),
        ("", "last_read_event_id=7&recipient%ZZid=7", &[38]),
        ("last_read_event_id%3D7%26recipient_id%3D7", "", &[38, 38]),
        ("", "{\"last_read_event_id\":7,\"recipient_id\":7}", &[38, 38]),
        // One is missing, which is reported first; the other is invalid.
        ("", "last_read_event_id=x", &[38, 44]),
        ("", "recipient_id=x", &[38, 44]),
        ("recipient_id=7;last_read_event_id=7", "", &[38, 44]),
        ("recipient_id=0", "last_read_event_id=", &[38, 44]),
        ("recipient_id=", "last_read_event_id=0", &[38, 44]),
    ])
    .await;
}

#[tokio::test]
async fn a_parameter_that_is_given_twice_is_400_with_44() {
    let many = format!("{}last_read_event_id=7", "recipient_id=7&".repeat(500));
    assert_all_refused(&[
        ("", "last_read_event_id=7&recipient_id=7&recipient_id=8", &[44]),
        ("", "last_read_event_id=7&recipient_id=7&recipient_id=7", &[44]),
        ("last_read_event_id=7&last_read_event_id=8&recipient_id=7", "", &[44]),
        ("last_read_event_id=7&last_read_event_id=7&recipient_id=7", "", &[44]),
        ("", "last_read_event_id=7&recipient_id=7&recipient%5Fid=8", &[44]),
        ("", "recipient_id=7&recipient_id=8&last_read_event_id=7&last_read_event_id=8", &[44, 44]),
        ("", &many, &[44]),
        (&many, "", &[44]),
        // In query and body, with different values.
        ("recipient_id=7", "last_read_event_id=7&recipient_id=8", &[44]),
        ("recipient_id=7&last_read_event_id=7", "recipient_id=8&last_read_event_id=8", &[44, 44]),
        ("recipient_id=7", "last_read_event_id=7&recipient_id=07", &[44]),
        ("recipient_id=7", "last_read_event_id=7&recipient_id=%207", &[44]),
        // In both, twice in one of them.
        ("recipient_id=7&recipient_id=7", "last_read_event_id=7&recipient_id=7", &[44]),
        ("recipient_id=7", "last_read_event_id=7&recipient_id=7&recipient_id=8", &[44]),
        // One is given twice, the other is missing.
        ("recipient_id=7&recipient_id=8", "", &[38, 44]),
        ("last_read_event_id=7", "last_read_event_id=8", &[38, 44]),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_is_compressed_is_not_inflated() {
    // Twitter's example.
    const GZIP: &str = "H4sIAAAAAAACA8tJLC6JL0pNTIlPLUvNK4nPTLG1MDc1MTW3MDY2MLYwMjMzNjcxVitKTc4s\
                        yIQqMLYwMDU0MAFKAAAyibfGPgAAAA==";
    let gzip = STANDARD.decode(GZIP).unwrap();
    let target = Target::start().await;
    for version in BOTH {
        for encoding in ["gzip", "x-gzip", "deflate", "br", "gzip, gzip"] {
            // Or the header alone says so.
            for body in [&gzip[..], EXAMPLE.as_bytes()] {
                let request = HttpRequest::form(body.to_vec()).header("content-encoding", encoding);
                let answer = request.over(version, &target.server).await;
                assert!([400, 415].contains(&answer.status.as_u16()), "{encoding}: {answer:?}");
            }
        }
    }
    target.assert_unharmed_after(0).await;
}
