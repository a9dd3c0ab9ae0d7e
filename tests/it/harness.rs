//! The harness itself: which binary it runs, and what it checks of every payload.

use std::path::Path;

use markread_harness::binary;
use markread_harness::schema::problem;

#[test]
fn the_harness_runs_the_binary_of_this_build() {
    assert_eq!(binary::path(), Path::new(env!("CARGO_BIN_EXE_markread")));
}

#[test]
fn the_schema_accepts_only_what_is_promised() {
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
