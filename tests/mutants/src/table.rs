//! The faults of `faults.toml`.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::Error;

/// Where the table is, from the root of the repository.
pub(crate) const PATH: &str = "tests/mutants/faults.toml";

/// All faults.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    /// Those that tests have to find.
    pub(crate) fault: Vec<Fault>,
    /// Those that the fault harness has to find: `tests/faults/planted`.
    #[serde(default)]
    pub(crate) planted: Vec<Planted>,
}

/// A change of one place in the sources.
#[derive(Debug, Deserialize)]
pub(crate) struct Change {
    pub(crate) name: String,
    /// From the root of the repository.
    pub(crate) file: String,
    /// What the file has exactly once.
    pub(crate) from: String,
    pub(crate) to: String,
}

/// A fault, and the tests that have to find it.
#[derive(Debug, Deserialize)]
pub(crate) struct Fault {
    #[serde(flatten)]
    pub(crate) change: Change,
    /// Unit tests, by their paths.
    #[serde(default)]
    pub(crate) lib: Vec<String>,
    /// End-to-end tests, by their paths. They meet the fault in the binary, and are not built again.
    #[serde(default)]
    pub(crate) it: Vec<String>,
    /// End-to-end tests that call the library themselves, and are built again.
    #[serde(default)]
    pub(crate) linked: Vec<String>,
    /// What would go wrong.
    pub(crate) why: String,
}

/// A fault that only shows under load.
#[derive(Debug, Deserialize)]
pub(crate) struct Planted {
    #[serde(flatten)]
    pub(crate) change: Change,
    /// Totals of the harness's last line of which one is not zero then.
    pub(crate) found_as: Vec<String>,
}

impl Table {
    /// Reads the table.
    pub(crate) fn load(root: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(root.join(PATH))?;
        toml::from_str(&text).map_err(|error| format!("{PATH}: {error}").into())
    }

    /// Returns the faults of these names, or all if there are none.
    pub(crate) fn faults(&self, names: &[&str]) -> Result<Vec<&Fault>, Error> {
        for name in names {
            if !self.fault.iter().any(|fault| fault.change.name == *name) {
                return Err(format!("no fault is called {name}: --list names them").into());
            }
        }
        let is_chosen = |fault: &&Fault| names.is_empty() || names.contains(&&*fault.change.name);
        Ok(self.fault.iter().filter(is_chosen).collect())
    }

    /// Returns what does not fit the sources any more, as lines.
    pub(crate) fn problems(&self, root: &Path) -> Vec<String> {
        let mut names = HashSet::new();
        let mut problems = Vec::new();
        let planted = self.planted.iter().map(|planted| &planted.change);
        for change in self.fault.iter().map(|fault| &fault.change).chain(planted) {
            if !names.insert(&change.name) {
                problems.push(format!("{}: two faults have this name", change.name));
            }
            if let Err(problem) = change.applied(root) {
                problems.push(problem);
            }
        }
        for fault in &self.fault {
            let name = &fault.change.name;
            if fault.tests().next().is_none() {
                problems.push(format!("{name}: no test is named"));
            }
            let it = ("tests/it", &fault.it);
            let tests = [("src", &fault.lib), it, ("tests/it", &fault.linked)];
            for (folder, tests) in tests {
                let missing = tests.iter().filter(|test| !has_test(&root.join(folder), test));
                problems.extend(missing.map(|test| format!("{name}: {folder} has no test {test}")));
            }
        }
        problems
    }
}

impl Fault {
    /// Returns all tests that have to find it.
    pub(crate) fn tests(&self) -> impl Iterator<Item = &String> {
        self.lib.iter().chain(&self.it).chain(&self.linked)
    }
}

impl Change {
    /// Returns the text of the file with the fault.
    pub(crate) fn applied(&self, root: &Path) -> Result<String, String> {
        let Self { name, file, from, to } = self;
        let text = fs::read_to_string(root.join(file));
        let text = text.map_err(|error| format!("{name}: {file}: {error}"))?;
        match text.matches(from.as_str()).count() {
            1 if from != to => Ok(text.replacen(from.as_str(), to, 1)),
            1 => Err(format!("{name}: the change is none")),
            count => Err(format!("{name}: {file} has {count} times, not once: {from}")),
        }
    }
}

/// Returns whether a test of this path may be in a folder: a file below it that the path's modules name has a
/// function of its name.
fn has_test(folder: &Path, test: &str) -> bool {
    let mut modules: Vec<&str> = test.split("::").collect();
    let Some(function) = modules.pop() else { return false };
    let function = format!("fn {function}(");
    // The last modules may be in the file of the one before them.
    (1..=modules.len()).rev().any(|depth| {
        let path = folder.join(modules[..depth].join("/"));
        let files = [path.with_extension("rs"), path.join("mod.rs")];
        files.iter().any(|file| fs::read_to_string(file).is_ok_and(|text| text.contains(&function)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn every_fault_fits_the_sources_and_names_tests_that_exist() {
        let problems = Table::load(&root()).unwrap().problems(&root());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let fault = |name: &str, from: &str, test: &str| Fault {
            change: Change {
                name: name.to_owned(),
                file: "src/domain/mark.rs".to_owned(),
                from: from.to_owned(),
                to: "to < cursor".to_owned(),
            },
            lib: vec![test.to_owned()],
            it: Vec::new(),
            linked: Vec::new(),
            why: String::new(),
        };
        let test = "domain::mark::tests::a_cursor_advances_to_greater_ids_only";
        let table = Table {
            fault: vec![
                fault("fits", "to > cursor", test),
                fault("twice", "pub struct", test),
                fault("gone", "to >= cursor", "domain::mark::tests::nothing"),
                fault("fits", "to > cursor", test),
            ],
            planted: Vec::new(),
        };
        let problems = table.problems(&root());
        let begins: Vec<_> = problems.iter().filter_map(|line| line.split_once(':')).collect();
        let names: Vec<_> = begins.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["twice", "gone", "fits", "gone"], "{problems:#?}");
    }
}
