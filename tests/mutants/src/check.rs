//! The faults one after the other, and what became of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use crate::Error;
use crate::build::{Built, Verdict, Workshop};
use crate::script::is_script;
use crate::table::Fault;

/// What became of a fault.
#[derive(Debug)]
enum Fate {
    Caught(String),
    Survived,
    /// It says nothing of the tests: it does not compile, for example.
    Invalid(String),
}

/// Executables without a fault.
struct Sound<'a> {
    workshop: &'a Workshop,
    /// The end-to-end tests.
    it: PathBuf,
    /// The server that they start.
    binary: PathBuf,
}

/// Puts each fault into the sources and runs its tests. Fails if one is not caught.
pub(crate) fn run(workshop: &Workshop, faults: &[&Fault]) -> Result<ExitCode, Error> {
    let sound = Sound {
        workshop,
        it: keep(workshop, workshop.build_it_tests()?, "it")?,
        binary: keep(workshop, workshop.build_binary()?, "markread")?,
    };
    let failing = sound.failing(faults)?;
    let mut bad = Vec::new();
    for fault in faults {
        let started = Instant::now();
        let name = &fault.change.name;
        let fate = match fault.tests().find_map(|test| failing.get(test)) {
            Some(reason) => Fate::Invalid(format!("without a fault: {reason}")),
            None => sound.examine(fault)?,
        };
        let seconds = started.elapsed().as_secs();
        match &fate {
            Fate::Caught(by) => println!("{name:<40} {seconds:>4} s  caught by {by}"),
            Fate::Survived => println!("{name:<40} {seconds:>4} s  SURVIVED: {}", fault.why),
            Fate::Invalid(reason) => println!("{name:<40} {seconds:>4} s  INVALID: {reason}"),
        }
        if !matches!(fate, Fate::Caught(_)) {
            bad.push(name.as_str());
        }
    }
    println!("\n{} faults, {} caught", faults.len(), faults.len() - bad.len());
    if bad.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("NOT CAUGHT: {}", bad.join(", "));
    Ok(ExitCode::FAILURE)
}

/// Copies what was built: with a fault it is built at the same path.
fn keep(workshop: &Workshop, built: Built, name: &str) -> Result<PathBuf, Error> {
    let kept = workshop.kept(name)?;
    fs::copy(built.map_err(|log| format!("the sources without a fault: {log}"))?, &kept)?;
    Ok(kept)
}

impl Sound<'_> {
    /// Runs all tests of the faults on the sources as they are, each by itself as with a fault: the time is
    /// bounded. Returns those that fail anyway, which find nothing.
    fn failing<'f>(&self, faults: &[&'f Fault]) -> Result<BTreeMap<&'f String, String>, Error> {
        let lib_tests: BTreeSet<_> = faults.iter().flat_map(|fault| &fault.lib).collect();
        let tests: BTreeSet<_> = faults.iter().flat_map(|fault| fault.tests()).collect();
        let lib = if lib_tests.is_empty() {
            PathBuf::new()
        } else {
            keep(self.workshop, self.workshop.build_lib_tests()?, "lib")?
        };
        let mut failing = BTreeMap::new();
        for test in &tests {
            let (executable, binary) = if lib_tests.contains(test) {
                (&lib, None)
            } else {
                (&self.it, Some(&*self.binary))
            };
            match self.workshop.run_tests(executable, binary, std::slice::from_ref(*test))? {
                Verdict::Passed => {}
                Verdict::Failed(_) => drop(failing.insert(*test, format!("{test} fails"))),
                other => drop(failing.insert(*test, format!("{test}: {other:?}"))),
            }
        }
        println!("{} of {} tests pass without a fault\n", tests.len() - failing.len(), tests.len());
        Ok(failing)
    }

    fn examine(&self, fault: &Fault) -> Result<Fate, Error> {
        if is_script(&fault.change.file) {
            return self.examine_script(fault);
        }
        self.examine_code(fault)
    }

    /// Exchanges a script in the executables, and runs the tests of the fault.
    fn examine_script(&self, fault: &Fault) -> Result<Fate, Error> {
        let Self { workshop, it, binary } = self;
        let bad_binary = workshop.kept("markread-with-a-fault")?;
        workshop.exchange(&fault.change, binary, &bad_binary)?;
        let mut verdict = workshop.run_tests(it, Some(&bad_binary), &fault.it)?;
        if verdict == Verdict::Passed && !fault.linked.is_empty() {
            let bad_it = workshop.kept("it-with-a-fault")?;
            workshop.exchange(&fault.change, it, &bad_it)?;
            verdict = workshop.run_tests(&bad_it, Some(&bad_binary), &fault.linked)?;
        }
        Ok(fate(verdict))
    }

    /// Builds a fault and runs its tests, the cheapest first.
    fn examine_code(&self, fault: &Fault) -> Result<Fate, Error> {
        let Self { workshop, it, .. } = self;
        let _applied = workshop.copy.apply(&fault.change)?;
        let mut verdict = Verdict::Passed;
        if !fault.lib.is_empty() {
            let Ok(lib) = workshop.build_lib_tests()? else { return Ok(does_not_compile()) };
            verdict = workshop.run_tests(&lib, None, &fault.lib)?;
        }
        if verdict == Verdict::Passed && !fault.it.is_empty() {
            let Ok(binary) = workshop.build_binary()? else { return Ok(does_not_compile()) };
            verdict = workshop.run_tests(it, Some(&binary), &fault.it)?;
        }
        if verdict == Verdict::Passed && !fault.linked.is_empty() {
            let Ok(linked) = workshop.build_it_tests()? else { return Ok(does_not_compile()) };
            verdict = workshop.run_tests(&linked, None, &fault.linked)?;
        }
        Ok(fate(verdict))
    }
}

fn does_not_compile() -> Fate {
    Fate::Invalid("it does not compile".to_owned())
}

fn fate(verdict: Verdict) -> Fate {
    match verdict {
        Verdict::Passed => Fate::Survived,
        Verdict::Failed(test) => Fate::Caught(test),
        Verdict::Hung => Fate::Caught("a test that hangs".to_owned()),
        Verdict::Unusable(reason) => Fate::Invalid(reason),
    }
}
