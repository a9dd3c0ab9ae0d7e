//! A cursor as a line of JSON: what `markread admin export` writes and `import` reads.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Conversation, MessageId, TIME_MAX_MS, UserId};

/// Longest text about an invalid line, in characters.
const PROBLEM_MAX_CHARS: usize = 200;

/// A cursor with its conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorRecord {
    /// The reader, and the other user.
    pub conversation: Conversation,
    /// The greatest message ID that was read.
    pub last_read_event_id: MessageId,
    /// When the cursor last advanced, in milliseconds since 1970; `None` if that is not known.
    pub read_at_ms: Option<u64>,
}

impl CursorRecord {
    /// Parses a line. IDs and the time are strings or integers, never floats.
    ///
    /// # Errors
    ///
    /// The problem, without control characters and at most a few hundred characters long.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        // serde would take an array for an object too.
        if line.trim_ascii_start().starts_with(b"[") {
            return Err("not a JSON object but an array".to_owned());
        }
        let Members { reader_id, recipient_id, last_read_event_id, read_at_ms } =
            serde_json::from_slice(line).map_err(|error| describe(&error))?;
        let id = |name: &str, Integer(text): Integer| {
            let id = text.parse::<UserId>();
            id.map_err(|problem| format!("{name} {problem}"))
        };
        let message = last_read_event_id.0.parse::<MessageId>();
        Ok(Self {
            conversation: Conversation {
                reader: id("reader_id", reader_id)?,
                recipient: id("recipient_id", recipient_id)?,
            },
            last_read_event_id: message
                .map_err(|problem| format!("last_read_event_id {problem}"))?,
            read_at_ms: read_at_ms.map(|Integer(text)| parse_time(&text)).transpose()?,
        })
    }
}

/// Writes the line, without the newline.
impl fmt::Display for CursorRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { conversation: Conversation { reader, recipient }, last_read_event_id, .. } =
            self;
        write!(
            f,
            r#"{{"reader_id":"{reader}","recipient_id":"{recipient}","last_read_event_id":"{last_read_event_id}""#
        )?;
        if let Some(read_at_ms) = self.read_at_ms {
            write!(f, r#","read_at_ms":{read_at_ms}"#)?;
        }
        f.write_str("}")
    }
}

/// A mistyped member would be lost without a word, so others are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Members {
    reader_id: Integer,
    recipient_id: Integer,
    last_read_event_id: Integer,
    #[serde(default)]
    read_at_ms: Option<Integer>,
}

/// An integer, as a string or as a number, in decimal digits.
struct Integer(String);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyInteger;

        impl Visitor<'_> for AnyInteger {
            type Value = Integer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer, or a string of decimal digits")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Integer, E> {
                Ok(Integer(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Integer, E> {
                Ok(Integer(number.to_string()))
            }
        }

        deserializer.deserialize_any(AnyInteger)
    }
}

fn parse_time(text: &str) -> Result<u64, String> {
    let time = text.parse().ok().filter(|time: &u64| *time <= TIME_MAX_MS);
    time.filter(|time| time.to_string() == text).ok_or_else(|| {
        format!("read_at_ms is out of range: it must be an integer from 0 to {TIME_MAX_MS}")
    })
}

/// The line's number is said by the caller, and a text of the line may have any characters.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let what = if error.is_data() {
        what.to_owned()
    } else {
        format!("not a JSON object: {what} at character {}", error.column())
    };
    what.chars().flat_map(escape).take(PROBLEM_MAX_CHARS).collect()
}

fn escape(character: char) -> impl Iterator<Item = char> {
    let text = if character.is_control() {
        character.escape_default().to_string()
    } else {
        character.to_string()
    };
    text.chars().collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"reader_id":"2244994945","recipient_id":"3805104374","last_read_event_id":"8754578330382663743","read_at_ms":1518127183443}"#;

    fn parse(line: &str) -> Result<CursorRecord, String> {
        CursorRecord::parse(line.as_bytes())
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let record = parse(LINE).unwrap();
        assert_eq!(record.to_string(), LINE);
        assert_eq!(record.last_read_event_id.get(), 8_754_578_330_382_663_743);
        let numbers = LINE.replace("\"2244994945\"", "2244994945").replace("\"87545", " 87545");
        let numbers =
            numbers.replace("63743\"", "63743 ").replace("1518127183443", "\"1518127183443\"");
        assert_eq!(parse(&numbers), Ok(record), "{numbers}");
        let without_time = CursorRecord { read_at_ms: None, ..record };
        assert_eq!(parse(&LINE.replace(r#","read_at_ms":1518127183443"#, "")), Ok(without_time));
        assert_eq!(parse(&LINE.replace("1518127183443", "null")), Ok(without_time));
        assert_eq!(parse(&without_time.to_string()), Ok(without_time));
    }

    #[test]
    fn an_invalid_line_is_refused_with_its_problem() {
        let table = [
            ("", "not a JSON object: EOF"),
            ("x", "not a JSON object: expected value at character 1"),
            ("[]", "not a JSON object but an array"),
            (" [\"1\",\"2\",\"3\",4]", "not a JSON object but an array"),
            ("1", "invalid type: integer `1`, expected a JSON object"),
            ("null", "invalid type: null, expected a JSON object"),
            ("{}", "missing field `reader_id`"),
            (&LINE.replace("2244994945", "0"), "reader_id is zero"),
            (&LINE.replace("2244994945", "02"), "reader_id is not a number"),
            (&LINE.replace("2244994945", ""), "reader_id is missing"),
            (
                &LINE.replace("\"2244994945\"", "-1"),
                "invalid type: integer `-1`, expected an integer, or a string of decimal digits",
            ),
            (&LINE.replace("\"2244994945\"", "1.0"), "invalid type: floating point"),
            (&LINE.replace("\"2244994945\"", "1e3"), "invalid type: floating point"),
            (&LINE.replace("3805104374", "9223372036854775808"), "recipient_id is too large"),
            (&LINE.replace("\"3805104374\"", "9223372036854775808"), "recipient_id is too large"),
            (&LINE.replace("8754578330382663743", "x"), "last_read_event_id is not a number"),
            (&LINE.replace("1518127183443", "1000000000000000"), "read_at_ms is out of range"),
            (&LINE.replace("1518127183443", "\"01\""), "read_at_ms is out of range"),
            (&LINE.replace("1518127183443", "1.5"), "invalid type: floating point"),
            (&LINE.replace("read_at_ms", "read_at"), "unknown field `read_at`"),
            (&LINE.replace("read_at_ms", "\\u001b[2J"), "unknown field `\\u{1b}[2J`"),
            (&LINE.replace("read_at_ms", "reader_id"), "duplicate field `reader_id`"),
            (&format!("{LINE}{LINE}"), "trailing characters"),
            (&format!("{LINE},"), "trailing characters"),
        ];
        for (line, problem) in table {
            let refused = parse(line).unwrap_err();
            assert!(refused.contains(problem), "{line}: {refused}");
            assert!(
                !refused.contains("line 1") && !refused.contains(char::is_control),
                "{refused}"
            );
        }
        assert!(CursorRecord::parse(b"{\"reader_id\":\"\xff\"}").is_err());
        let long = LINE.replace("read_at_ms", &"x".repeat(4_000));
        assert_eq!(parse(&long).unwrap_err().chars().count(), PROBLEM_MAX_CHARS);
    }
}
