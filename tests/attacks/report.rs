//! The table of attacks, and whether each kept its limits.

use crate::case::Case;
use crate::neighbour::Figures;
use crate::stage::{Finding, Outcome};

/// Where the neighbour's p50 is less, a ratio would measure the machine's noise.
const P50_LEAST_MS: f64 = 5.0;

/// What a server may use that is given 512 MiB.
pub(crate) const LIMIT_MIB: u64 = 512;

/// What an attack may leave to be done, in cores, when it is over.
const CORES_LEFT: f64 = 0.5;

const MIB: u64 = 1 << 20;

/// Prints the head of the table.
pub(crate) fn head() {
    println!(
        "{:<50} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>5}  verdict",
        "attack", "p50 alone", "p50", "p99", "p50 after", "refused", "RSS MiB", "cores"
    );
}

/// How an attack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It broke no limit.
    Ok,
    /// It broke some that a slow machine may break.
    Retry,
    /// It broke a limit.
    Broken,
}

/// Prints the row of an attack with what it broke.
pub(crate) fn row(case: &Case, outcome: &Outcome) -> Verdict {
    let ms = |figures: &Figures, share| {
        figures.quantile_ms(share).map_or("-".to_owned(), |ms| format!("{ms:.1} ms"))
    };
    let limits = limits(case, outcome);
    let findings = outcome.findings.iter().chain(&limits);
    let broken: Vec<&Finding> = findings.filter(|finding| !finding.holds).collect();
    let verdict = match broken.as_slice() {
        [] => Verdict::Ok,
        broken if !broken.iter().any(|finding| finding.is_final) => Verdict::Retry,
        _ => Verdict::Broken,
    };
    println!(
        "{:<50} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>5.2}  {}",
        case.name,
        ms(&outcome.alone, 0.5),
        ms(&outcome.attack, 0.5),
        ms(&outcome.attack, 0.99),
        ms(&outcome.after, 0.5),
        outcome.attack.refused(),
        outcome.peaks[1] / MIB,
        outcome.cores[1],
        if verdict == Verdict::Ok { "ok" } else { "BROKEN" },
    );
    for finding in &broken {
        println!("    not so: {}", finding.what);
    }
    // Those with a figure are worth a line though they are as they should be.
    for finding in outcome.findings.iter().filter(|one| one.holds && one.what.contains(':')) {
        println!("    {}", finding.what);
    }
    verdict
}

fn limits(case: &Case, outcome: &Outcome) -> Vec<Finding> {
    let [before, during] = outcome.peaks;
    let [cores_alone, cores, cores_after] = outcome.cores;
    let what = format!("it uses at most {:.1} cores, got {cores:.2}", case.cpu_cores);
    let cpu = Finding::new(cores <= case.cpu_cores, what);
    if case.is_limited {
        let holds = during <= LIMIT_MIB * MIB;
        let memory = Finding::final_one(holds, format!("at most {LIMIT_MIB} MiB are used"));
        return vec![memory, cpu];
    }
    let grown = during.saturating_sub(before) / MIB;
    let what = format!("it adds at most {} MiB, got {grown}", case.memory_mib);
    let mut limits = vec![Finding::final_one(grown <= case.memory_mib, what), cpu];
    if !case.neighbour {
        return limits;
    }
    let most = cores_alone + CORES_LEFT;
    let what = format!("after it at most {most:.2} cores are busy, got {cores_after:.2}");
    limits.push(Finding::new(cores_after <= most, what));
    let alone = outcome.alone.quantile_ms(0.5).unwrap_or(f64::NAN);
    let limit = case.p50_times * alone.max(P50_LEAST_MS);
    for (when, figures) in [("during", &outcome.attack), ("after", &outcome.after)] {
        let holds = figures.quantile_ms(0.5).is_some_and(|p50| p50 <= limit);
        let what = format!("others' p50 {when} it is at most {limit:.1} ms");
        limits.push(Finding::new(holds, what));
    }
    let refused = outcome.attack.refused();
    let what = format!(
        "at most {} calls of others are refused, got {refused} of {}, {:?}",
        case.refusals,
        refused + outcome.attack.served(),
        outcome.attack.refused
    );
    limits.push(Finding::new(refused <= case.refusals, what));
    limits
}
