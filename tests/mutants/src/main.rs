//! The mutation check: puts the faults of `faults.toml` into a copy of the sources, one at a time, and expects
//! that the tests find each. `tests/mutants/run --help` has the command line.
//!
//! ```text
//! main      the command line
//! check     the faults one after the other, and what became of each
//! build     Cargo's builds of the copy, and its tests
//! copy      the copy of the sources
//! script    the texts of Redis scripts in executables
//! table     the faults
//! ```

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a program that prints what it found"
)]

mod build;
mod check;
mod copy;
mod script;
mod table;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use build::Workshop;
use script::is_script;
use table::Table;

/// Why the program cannot go on.
type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tests/mutants/run: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode, Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let table = Table::load(&root)?;
    let problems = table.problems(&root);
    if !problems.is_empty() {
        return Err(format!("{} is out of date:\n{}", table::PATH, problems.join("\n")).into());
    }
    let names: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match names[..] {
        ["--list"] => {
            for fault in &table.fault {
                println!("{:<44} {}", fault.change.name, fault.why);
            }
            Ok(ExitCode::SUCCESS)
        }
        ["--list-planted"] => {
            for planted in &table.planted {
                println!("{} {}", planted.change.name, planted.found_as.join("|"));
            }
            Ok(ExitCode::SUCCESS)
        }
        ["--copy"] => {
            println!("{}", Workshop::open(&root)?.copy.root.display());
            Ok(ExitCode::SUCCESS)
        }
        ["--plant", name] => {
            println!("{}", plant(&root, &table, name)?.display());
            Ok(ExitCode::SUCCESS)
        }
        _ => check::run(&Workshop::open(&root)?, &table.faults(&names)?),
    }
}

/// Builds a server with one of the planted faults, and returns its path.
fn plant(root: &Path, table: &Table, name: &str) -> Result<PathBuf, Error> {
    let planted = table.planted.iter().find(|planted| planted.change.name == name);
    let change = &planted.ok_or_else(|| format!("no planted fault is called {name}"))?.change;
    let workshop = Workshop::open(root)?;
    let kept = workshop.kept(&format!("markread-{name}"))?;
    if is_script(&change.file) {
        let binary = workshop.build_binary()?.map_err(|log| format!("the copy: {log}"))?;
        workshop.exchange(change, &binary, &kept)?;
    } else {
        let _applied = workshop.copy.apply(change)?;
        let binary = workshop.build_binary()?.map_err(|log| format!("{name}: {log}"))?;
        fs::copy(binary, &kept)?;
    }
    Ok(kept)
}
