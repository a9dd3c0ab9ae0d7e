//! Whether payloads are what `docs/mark_read_event.schema.json` promises to consumers.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let schema = include_str!("../../../docs/mark_read_event.schema.json");
    jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap()
});

/// What is wrong with a payload, where anything is.
pub(crate) fn problem(payload: &str) -> Option<String> {
    match serde_json::from_str::<Value>(payload) {
        Ok(payload) => SCHEMA.validate(&payload).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

#[test]
fn the_schema_takes_what_is_promised_and_nothing_else() {
    let good = r#"{"direct_message_mark_read_events":[{"created_timestamp":"1","sender_id":"7","last_read_event_id":"9","target":{"recipient_id":"8"}}],"users":{"7":{"id":"7"},"8":{"name":"x"}}}"#;
    assert_eq!(problem(good), None);
    for (from, to) in [
        (r#""sender_id":"7""#, r#""sender_id":7"#),
        (r#""sender_id":"7""#, r#""sender_id":"07""#),
        (r#""sender_id":"7","#, ""),
        (r#""target":{"#, r#""more":1,"target":{"#),
        (r#"{"name":"x"}"#, "[]"),
        (r#"{"7":{"id":"7"},"8":{"name":"x"}}"#, "{}"),
        (r#"}],"users""#, r#"},{}],"users""#),
        (r#"{"direct"#, r#"{"for_user_id":"7","direct"#),
        ("}}}", "}}"),
    ] {
        assert!(good.contains(from), "{from}");
        assert!(problem(&good.replace(from, to)).is_some(), "{from} to {to}");
    }
}
