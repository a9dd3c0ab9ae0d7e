//! What is counted, and how it is printed.

use crate::history::{Conversation, Injected, Moment, Request};
use crate::world::{Durability, Mode};

use super::*;

const CONVERSATION: Conversation = Conversation { reader: 1, recipient: 2 };

const fn at(ms: u64) -> Moment {
    Duration::from_millis(ms)
}

fn call(client: usize, began: u64, ended: u64, outcome: Outcome) -> Operation {
    Operation {
        client,
        conversation: CONVERSATION,
        request: if outcome == Outcome::Read(None) { Request::Read } else { Request::Mark(5) },
        began: at(began),
        ended: at(ended),
        outcome,
    }
}

fn history() -> History {
    let unavailable = || Outcome::Unknown(Code::Unavailable);
    let kind = "redis-killed".to_owned();
    History {
        operations: vec![
            call(0, 0, 5, Outcome::Read(None)),
            call(0, 100, 110, unavailable()),
            call(1, 90, 130, unavailable()),
            call(0, 115, 120, Outcome::Refused(Code::ResourceExhausted)),
            call(1, 150, 190, unavailable()),
            call(0, 200, 250, Outcome::Marked { cursor: 5, advanced: true }),
        ],
        faults: vec![Injected { kind, from: at(95), to: at(98), losses: Vec::new() }],
        ..History::default()
    }
}

fn account(violations: &[Violation]) -> Account {
    let promise = Promise::new(Mode::Standalone, Durability::Always, 1);
    let not_run = [("disk-full".to_owned(), "there is no tmpfs".to_owned())];
    Account::of(&history(), &promise, violations, &not_run)
}

#[test]
fn an_outage_lasts_until_a_call_is_acknowledged() {
    let account = account(&[]);
    assert_eq!(account.longest_outage, at(150));
    // The outage of client 0 began later.
    assert_eq!(account.outages, BTreeMap::from([("redis-killed".to_owned(), at(100))]));
}

#[test]
fn the_totals_are_one_line() {
    let broken = Violation {
        rule: Rule::Lost,
        conversation: None,
        message: None,
        who: None,
        at: at(0),
        count: 2,
        text: String::new(),
    };
    let ok = "faults: mode=standalone seed=7 calls=6 acknowledged=1 faults=1 not_run=1 undecided=0 lost=0 \
              lost_events=0 doubled=0 out_of_order=0 back=0 unheard=0 undelivered=0 other=0 taken=0 \
              taken_events=0 longest_outage_ms=150 ok";
    assert_eq!(account(&[]).totals_line("standalone", 7, true), ok);
    let unwhole = account(&[]).totals_line("standalone", 7, false);
    assert_eq!(unwhole, ok.replace("ms=150 ok", "ms=150 BROKEN"));
    let line = ok
        .replace("lost=0", "lost=2")
        .replace("other=0", "other=1")
        .replace("ms=150 ok", "ms=150 BROKEN");
    let torn = Violation { rule: Rule::Torn, count: 1, ..broken.clone() };
    assert_eq!(account(&[broken, torn]).totals_line("standalone", 7, true), line);
}

#[test]
fn what_was_not_run_is_printed_loudly() {
    let printed = account(&[]).to_string();
    assert!(printed.contains("NOT RUN  disk-full: there is no tmpfs\n"), "{printed}");
    assert!(printed.contains("  Unavailable                                     3\n"), "{printed}");
    assert!(printed.contains("  redis-killed                               100 ms\n"), "{printed}");
    assert!(!printed.contains("rules that were broken"), "{printed}");
}

#[test]
fn runs_are_added() {
    let mut sum = account(&[]);
    sum.add(account(&[]));
    let line = sum.totals_line("all", 7, true);
    assert!(
        line.starts_with("faults: mode=all seed=7 calls=12 acknowledged=2 faults=2 not_run=1 "),
        "{line}"
    );
    assert!(line.ends_with("longest_outage_ms=150 ok"), "{line}");
}
