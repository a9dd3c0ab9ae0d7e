//! Checks events' payloads against `docs/mark_read_event.schema.json`, which consumers rely on.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let schema = include_str!("../../../docs/mark_read_event.schema.json");
    jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap()
});

/// Returns what is wrong with a payload, or `None` where it is valid.
pub fn problem(payload: &str) -> Option<String> {
    match serde_json::from_str::<Value>(payload) {
        Ok(payload) => SCHEMA.validate(&payload).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}
