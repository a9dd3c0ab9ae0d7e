//! The counts of a run, as they are printed.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use tonic::Code;

use crate::history::{History, Operation, Outcome, Update};
use crate::rules::{self, Promise, Rule, Taken, Violation};

mod outages;
#[cfg(test)]
mod tests;

/// The counts of a run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Account {
    /// Calls by the name of their status.
    calls: BTreeMap<String, usize>,
    /// Faults that were injected, by kind.
    faults: BTreeMap<String, usize>,
    /// Kinds of faults that this machine or mode cannot do, and why.
    not_run: Vec<(String, String)>,
    /// Marks that were answered OK, and those of them that advanced.
    acknowledged: usize,
    advanced: usize,
    /// Events that are left in the streams.
    events: usize,
    /// Updates of watchers: events, gaps, resumed streams.
    heard: usize,
    gaps: usize,
    resumed: usize,
    /// Deliveries that receivers accepted, dead letters, and entries that were counted as missed.
    accepted: usize,
    dead: usize,
    missed: u64,
    /// Deliveries that arrived again.
    repeated: usize,
    /// What faults took that had the right to.
    taken: Taken,
    /// How often each rule was broken.
    broken: BTreeMap<Rule, usize>,
    /// The longest outage of a client, and the longest one by the kind of fault that it overlaps.
    longest_outage: Duration,
    outages: BTreeMap<String, Duration>,
}

impl Account {
    /// Counts what happened, what broke a rule, and what was not run.
    pub fn of(
        history: &History,
        promise: &Promise,
        violations: &[Violation],
        not_run: &[(String, String)],
    ) -> Self {
        let mut account = Self {
            not_run: not_run.to_vec(),
            events: history.events.len(),
            taken: rules::taken(history, promise),
            ..Self::default()
        };
        history.operations.iter().for_each(|operation| account.add_call(operation));
        for fault in &history.faults {
            *account.faults.entry(fault.kind.clone()).or_default() += 1;
        }
        for violation in violations {
            *account.broken.entry(violation.rule).or_default() += violation.count;
        }
        account.add_heard(history);
        account.add_delivered(history);
        (account.longest_outage, account.outages) = outages::longest(history);
        account
    }

    /// Adds the counts of another run. An outage is the longest of both.
    pub fn add(&mut self, other: Self) {
        let sum = |all: &mut BTreeMap<String, usize>, more: BTreeMap<String, usize>| {
            for (name, count) in more {
                *all.entry(name).or_default() += count;
            }
        };
        sum(&mut self.calls, other.calls);
        sum(&mut self.faults, other.faults);
        for not_run in other.not_run {
            if !self.not_run.contains(&not_run) {
                self.not_run.push(not_run);
            }
        }
        self.acknowledged += other.acknowledged;
        self.advanced += other.advanced;
        self.events += other.events;
        self.heard += other.heard;
        self.gaps += other.gaps;
        self.resumed += other.resumed;
        self.accepted += other.accepted;
        self.dead += other.dead;
        self.missed += other.missed;
        self.repeated += other.repeated;
        self.taken.marks += other.taken.marks;
        self.taken.events += other.taken.events;
        self.taken.undecided += other.taken.undecided;
        for (rule, count) in other.broken {
            *self.broken.entry(rule).or_default() += count;
        }
        self.longest_outage = self.longest_outage.max(other.longest_outage);
        for (kind, outage) in other.outages {
            let longest = self.outages.entry(kind).or_default();
            *longest = outage.max(*longest);
        }
    }

    fn add_call(&mut self, operation: &Operation) {
        let code = match &operation.outcome {
            Outcome::Marked { advanced, .. } => {
                self.acknowledged += 1;
                self.advanced += usize::from(*advanced);
                Code::Ok
            }
            Outcome::Read(_) => Code::Ok,
            Outcome::Refused(code) | Outcome::Unknown(code) => *code,
        };
        *self.calls.entry(format!("{code:?}")).or_default() += 1;
    }

    fn add_heard(&mut self, history: &History) {
        for (_, update) in history.watches.iter().flat_map(|watch| &watch.updates) {
            match update {
                Update::Event(_) => self.heard += 1,
                Update::Gap => self.gaps += 1,
                Update::Resumed => self.resumed += 1,
            }
        }
    }

    fn add_delivered(&mut self, history: &History) {
        for deliveries in &history.deliveries {
            self.accepted += deliveries.accepted.len();
            self.dead += deliveries.dead.len();
            self.missed += deliveries.missed;
            let keys = deliveries.accepted.iter().map(|(_, user, event)| (user, event));
            let distinct: HashSet<_> = keys.collect();
            self.repeated += deliveries.accepted.len() - distinct.len();
        }
    }

    /// Whether every rule held.
    pub fn is_ok(&self) -> bool {
        self.broken.is_empty()
    }

    /// Prints the account.
    pub fn print(&self) {
        print!("{self}");
    }

    fn count(&self, rules: &[Rule]) -> usize {
        rules.iter().map(|rule| self.broken.get(rule).copied().unwrap_or(0)).sum()
    }

    /// Returns the rules' columns of the totals: each rule is in one of them.
    fn columns(&self) -> [(&'static str, usize); 8] {
        let lost = [Rule::Lost, Rule::MissingEvent];
        let doubled =
            [Rule::DoubledAdvance, Rule::DoubledEvent, Rule::HeardTwice, Rule::DeliveredTwice];
        let order = [Rule::OutOfOrder, Rule::HeardOutOfOrder, Rule::DeliveredOutOfOrder];
        let named = [
            ("lost", self.count(&lost[..1])),
            ("lost_events", self.count(&lost[1..])),
            ("doubled", self.count(&doubled)),
            ("out_of_order", self.count(&order)),
            ("back", self.count(&[Rule::Back])),
            ("unheard", self.count(&[Rule::Unheard])),
            ("undelivered", self.count(&[Rule::Undelivered])),
        ];
        let all: usize = self.broken.values().sum();
        let other = all - named.iter().map(|(_, count)| count).sum::<usize>();
        let mut columns = [("other", other); 8];
        columns[..7].copy_from_slice(&named);
        columns
    }

    /// Returns the last line: all totals, for people and scripts. `lost` and the others are what broke a rule;
    /// `taken` and `taken_events` what faults took that had the right to. It ends with `ok` if every rule held and the run
    /// is good otherwise, too.
    pub fn totals_line(&self, mode: &str, seed: u64, is_good: bool) -> String {
        let calls: usize = self.calls.values().sum();
        let faults: usize = self.faults.values().sum();
        let columns = self.columns().map(|(name, count)| format!("{name}={count}")).join(" ");
        let (acknowledged, not_run) = (self.acknowledged, self.not_run.len());
        let Taken { marks, events, undecided } = self.taken;
        let outage = self.longest_outage.as_millis();
        let verdict = if is_good && self.is_ok() { "ok" } else { "BROKEN" };
        format!(
            "faults: mode={mode} seed={seed} calls={calls} acknowledged={acknowledged} \
             faults={faults} not_run={not_run} undecided={undecided} {columns} taken={marks} \
             taken_events={events} longest_outage_ms={outage} {verdict}"
        )
    }

    /// Returns the lines: a heading, then what belongs to it.
    fn sections(&self) -> Vec<(&'static str, Vec<(String, String)>)> {
        let by_name = |counts: &BTreeMap<String, usize>| {
            counts.iter().map(|(name, count)| (name.clone(), count.to_string())).collect()
        };
        let row = |name: &str, count: String| (name.to_owned(), count);
        let count = |name: &str, count: usize| row(name, count.to_string());
        let kinds = self.outages.iter().map(|(kind, outage)| row(kind, millis(*outage)));
        let longest = row("longest of all", millis(self.longest_outage));
        let broken = self.broken.iter().map(|(rule, broken)| count(rule.name(), *broken));
        let columns = self.columns().map(|(name, broken)| count(&name.replace('_', " "), broken));
        vec![
            ("calls by status", by_name(&self.calls)),
            ("faults by kind", by_name(&self.faults)),
            ("outages by kind of fault", kinds.chain([longest]).collect()),
            (
                "what happened",
                vec![
                    count("marks acknowledged", self.acknowledged),
                    count("of those, advanced", self.advanced),
                    count("events in the streams", self.events),
                    count("events heard by watchers", self.heard),
                    count("gaps told to watchers", self.gaps),
                    count("watches resumed", self.resumed),
                    count("deliveries accepted", self.accepted),
                    count("of those, again", self.repeated),
                    count("dead letters", self.dead),
                    row("entries told as missed", self.missed.to_string()),
                    count("marks taken by faults with a loss", self.taken.marks),
                    count("events taken by faults with a loss", self.taken.events),
                    count("conversations left undecided", self.taken.undecided),
                ],
            ),
            ("broken promises", columns.to_vec()),
            ("rules that were broken", broken.collect()),
        ]
    }
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (heading, rows) in self.sections() {
            if rows.is_empty() {
                continue;
            }
            writeln!(f, "{heading}")?;
            for (name, value) in rows {
                writeln!(f, "  {name:<36} {value:>12}")?;
            }
        }
        for (kind, reason) in &self.not_run {
            writeln!(f, "NOT RUN  {kind}: {reason}")?;
        }
        Ok(())
    }
}
