//! Gauges of consumer groups. The exporter cannot remove a series, and a group may be gone: so they are
//! kept and written here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use metrics_exporter_prometheus::formatting::{write_help_line, write_type_line};

use super::{GROUP_TRIMMED, GROUP_UNREAD};

/// What is exported of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupGauges {
    /// The label `group`.
    pub name: String,
    /// Number of entries that it has not read, if Redis knows it.
    pub unread: Option<u32>,
    /// Whether some of them were trimmed.
    pub has_trimmed_unread: bool,
}

/// The groups of the last probe, by name.
static GROUPS: Mutex<BTreeMap<String, GroupGauges>> = Mutex::new(BTreeMap::new());

/// Replaces the exported groups: those that are not among them disappear.
pub fn set_groups(groups: Vec<GroupGauges>) {
    let groups = groups.into_iter().map(|group| (group.name.clone(), group)).collect();
    // A poisoned lock is safe to use: nothing that holds it panics.
    *GROUPS.lock().unwrap_or_else(PoisonError::into_inner) = groups;
}

/// Appends the series of all groups.
pub(super) fn render(page: &mut String) {
    let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    write_groups(page, &groups);
}

fn write_groups(page: &mut String, groups: &BTreeMap<String, GroupGauges>) {
    if groups.is_empty() {
        return;
    }
    let mut gauge = |name, help, value: fn(&GroupGauges) -> f64| {
        write_help_line(page, name, None, None, help);
        write_type_line(page, name, None, None, "gauge");
        for (label, group) in groups {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "{name}{{group=\"{}\"}} {}", escape(label), value(group));
        }
        page.push('\n');
    };
    gauge(
        GROUP_UNREAD,
        "Entries that a consumer group has not read, NaN if Redis does not know (lag)",
        |group| group.unread.map_or(f64::NAN, f64::from),
    );
    gauge(
        GROUP_TRIMMED,
        "1 while entries are gone that a consumer group never read, else 0",
        |group| f64::from(u8::from(group.has_trimmed_unread)),
    );
}

/// Escapes the value of a label, as the text format of Prometheus 0.0.4 has it.
fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_written_in_prometheus_format() {
        let group = |name: &str, unread, has_trimmed_unread| {
            let name = name.to_owned();
            (name.clone(), GroupGauges { name, unread, has_trimmed_unread })
        };
        let mut page = String::new();
        let groups = [group("push", Some(3), false), group("a\\\"\n\u{e9}\\", None, true)];
        write_groups(&mut page, &groups.into());
        let lines: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                r#"markread_stream_group_unread_entries{group="a\\\"\né\\"} NaN"#,
                r#"markread_stream_group_unread_entries{group="push"} 3"#,
                "",
                r#"markread_stream_group_trimmed_unread{group="a\\\"\né\\"} 1"#,
                r#"markread_stream_group_trimmed_unread{group="push"} 0"#,
                "",
            ]
        );
        assert!(page.contains("# TYPE markread_stream_group_unread_entries gauge\n"), "{page}");

        let mut page = String::new();
        write_groups(&mut page, &BTreeMap::new());
        assert_eq!(page, "");
    }
}
