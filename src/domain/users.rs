//! Hydrated users: the user objects in an event's payload (`docs/contract.md`, "The event").
//!
//! Other programs store them, so a value can be anything. A value that cannot be embedded in a
//! payload unchanged is left out, and the user appears with the ID alone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Mark, UserId};

/// Largest user object that is embedded unless the settings say otherwise, in bytes.
pub const USER_OBJECT_MAX_BYTES: usize = 16 * 1024;

/// Bound of all user objects of one call, in bytes. Further users appear with the ID alone.
pub const CALL_USER_OBJECTS_MAX_BYTES: usize = 1024 * 1024;

/// Text of a user object: the stored value without the white space around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserObject(Arc<str>);

impl UserObject {
    /// Parses a stored value. Returns `None` unless it is a JSON object (RFC 8259) that every parser
    /// accepts: deep nesting, numbers beyond a double's range and half a surrogate pair are refused.
    pub fn parse(value: &[u8], max_bytes: usize) -> Option<Self> {
        const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];
        if value.len() > max_bytes {
            return None;
        }
        let text = std::str::from_utf8(value).ok()?.trim_matches(WHITE_SPACE);
        let parses = |text: &str| serde_json::from_str::<Value>(text).is_ok();
        // A payload nests it two levels deeper.
        let is_embeddable = text.starts_with('{') && parses(text) && parses(&format!("[[{text}]]"));
        is_embeddable.then(|| Self(text.into()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// User objects of one call. A user without one appears with the ID alone.
#[derive(Clone, Debug, Default)]
pub struct Users(HashMap<UserId, UserObject>);

impl Users {
    /// Collects objects up to the bound of one call, in order.
    pub fn within_bounds(objects: impl IntoIterator<Item = (UserId, UserObject)>) -> Self {
        let mut bytes = 0;
        let fits = |(_, object): &(UserId, UserObject)| {
            bytes += object.as_str().len();
            bytes <= CALL_USER_OBJECTS_MAX_BYTES
        };
        Self(objects.into_iter().take_while(fits).collect())
    }

    /// Adds the objects of another call.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Returns the objects of the users of these marks alone.
    #[must_use]
    pub fn of(&self, marks: &[Mark]) -> Self {
        let users = distinct_users(marks).into_iter();
        Self(users.filter_map(|user| Some((user, self.get(user)?.clone()))).collect())
    }

    /// Returns the total size of the objects, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.values().map(|object| object.as_str().len()).sum()
    }

    /// Returns a user's object.
    pub fn get(&self, user: UserId) -> Option<&UserObject> {
        self.0.get(&user)
    }

    /// Iterates over all objects, in any order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (UserId, &UserObject)> {
        self.0.iter().map(|(user, object)| (*user, object))
    }
}

/// Returns the readers and recipients of marks, each once, in the order of the marks.
pub fn distinct_users(marks: &[Mark]) -> Vec<UserId> {
    let mut seen = HashSet::with_capacity(2 * marks.len());
    let users = marks.iter().flat_map(|mark| [mark.reader, mark.recipient]);
    users.filter(|user| seen.insert(*user)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Option<String> {
        UserObject::parse(value.as_bytes(), USER_OBJECT_MAX_BYTES)
            .map(|object| object.as_str().to_owned())
    }

    #[test]
    fn a_json_object_is_embedded_byte_for_byte() {
        for object in
            ["{}", r#"{"id": 1.50,  "name":"\u00e9 🙂"}"#, r#"{"a":{"b":[1,null]},"a":2}"#]
        {
            assert_eq!(parse(object).as_deref(), Some(object));
            assert_eq!(parse(&format!(" \r\n\t{object}\n ")).as_deref(), Some(object));
        }
    }

    #[test]
    fn a_value_that_breaks_some_parser_is_left_out() {
        let deep = |levels| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        for value in [
            "",
            " ",
            "[]",
            "{",
            "null",
            "1",
            "\"{}\"",
            "{}{}",
            "{},{}",
            "{}]],[[{}",
            "{a:1}",
            "{'a':1}",
            "{\"a\":1,}",
            "{\"a\":01}",
            "{\"a\":NaN}",
            "{\"a\":1e999}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\n\"}",
            "\u{feff}{}",
            "\u{a0}{}",
            &deep(126),
            &deep(16_000 / 2),
        ] {
            assert_eq!(parse(value), None, "{}", &value[..value.len().min(40)]);
        }
        assert!(parse(&deep(100)).is_some());
        assert_eq!(UserObject::parse(b"{\"a\":\"\xff\"}", 100), None);
        let padded = |bytes: usize| format!("{{}}{}", " ".repeat(bytes - 2));
        assert!(parse(&padded(USER_OBJECT_MAX_BYTES)).is_some());
        assert_eq!(parse(&padded(USER_OBJECT_MAX_BYTES + 1)), None);
    }

    #[test]
    fn a_call_carries_at_most_1_mib_of_objects() {
        let object = UserObject(format!("{{{}}}", " ".repeat(65_534)).into());
        let users = (1..=100).map(|id: u64| (id.try_into().unwrap(), object.clone()));
        let users = Users::within_bounds(users);
        assert_eq!(users.iter().len(), 16);
        assert!(users.get(16.try_into().unwrap()).is_some());
    }

    #[test]
    fn the_bounds_are_those_of_the_contract() {
        assert_eq!((USER_OBJECT_MAX_BYTES, CALL_USER_OBJECTS_MAX_BYTES), (16_384, 1_048_576));
    }

    #[test]
    fn marks_of_a_call_share_the_objects_of_their_users() {
        let user = |id: u64| UserId::try_from(id).unwrap();
        let object = |id: u64| (user(id), UserObject(format!(r#"{{"id":{id}}}"#).into()));
        let mark = |reader, recipient| Mark {
            reader: user(reader),
            recipient: user(recipient),
            last_read_event_id: 1.try_into().unwrap(),
        };
        let marks = [mark(1, 2), mark(3, 1), mark(3, 3), mark(2, 4)];
        assert_eq!(distinct_users(&marks), [1, 2, 3, 4].map(user));

        let mut users = Users::within_bounds([object(1), object(2)]);
        users.extend(Users::within_bounds([object(3)]));
        assert_eq!((users.iter().len(), users.bytes()), (3, 3 * r#"{"id":1}"#.len()));
        let some = users.of(&marks[1..3]);
        assert_eq!((some.iter().len(), some.get(user(2))), (2, None));
        assert_eq!(some.get(user(3)).map(UserObject::as_str), Some(r#"{"id":3}"#));
        assert_eq!(users.of(&[mark(4, 4)]).iter().len(), 0);
    }
}
