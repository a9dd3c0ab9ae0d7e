//! Each target over its corpus, and over mutations of it: the same ones each time, in a few seconds.
//!
//! `MARKREAD_FUZZ_SEED` sets another seed, `MARKREAD_FUZZ_MUTATIONS` how many inputs each target gets, and
//! `MARKREAD_FUZZ_INPUT`, with base64, the only one: that of a failure, which prints the command.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something fails"
)]

use std::any::Any;
use std::collections::BTreeSet;
use std::env::var;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use markread_fuzz::mutation::Mutator;
use markread_fuzz::{TARGETS, Target};

const MUTATIONS: u64 = 2000;
const SEED: u64 = 1;

/// Longest time that an input may take: a parser that is linear needs microseconds, also without optimization.
const INPUT_MAX: Duration = Duration::from_secs(2);

/// Longest time that is spent on a target, so that a slow machine does not wait for the last mutations.
const TARGET_MAX: Duration = Duration::from_secs(2);

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora")
}

/// The inputs of a target's corpus, by file, in order.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = corpora().join(target.name);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|_| panic!("there is no {}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|file| (name(file), fs::read(file).unwrap())).collect()
}

/// Runs a target on an input. Returns what is wrong.
fn try_input(target: &Target, input: &[u8]) -> Option<String> {
    let began = Instant::now();
    let run = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let took = began.elapsed();
    match run {
        Err(panic) => Some(message(&*panic)),
        Ok(()) if took > INPUT_MAX => Some(format!("it took {took:?}")),
        Ok(()) => None,
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

fn report(target: &Target, what: &str, input: &[u8], problem: &str) -> String {
    let name = target.name;
    let encoded = STANDARD.encode(input);
    format!(
        "{name}, {what}: {problem}\n  again: MARKREAD_FUZZ_INPUT='{encoded}' \
         cargo test -p markread-fuzz -- {name}\n"
    )
}

/// Returns what a target fails on, at most one input.
fn failure(target: &Target) -> Option<String> {
    if let Ok(input) = var("MARKREAD_FUZZ_INPUT") {
        let input = STANDARD.decode(input).expect("MARKREAD_FUZZ_INPUT is base64");
        return try_input(target, &input)
            .map(|problem| report(target, "the given input", &input, &problem));
    }
    let files = corpus(target);
    for (name, input) in &files {
        if let Some(problem) = try_input(target, input) {
            return Some(report(target, name, input, &problem));
        }
    }
    let inputs: Vec<Vec<u8>> = files.into_iter().map(|(_, input)| input).collect();
    stretched(target, &inputs).or_else(|| mutated(target, &inputs))
}

/// Each input again and again, up to the greatest length: what is quadratic shows.
fn stretched(target: &Target, inputs: &[Vec<u8>]) -> Option<String> {
    let filled = inputs.iter().filter(|input| !input.is_empty());
    filled.into_iter().find_map(|input| {
        let long = input.repeat(target.max_len / input.len());
        try_input(target, &long).map(|problem| report(target, "stretched", &long, &problem))
    })
}

fn mutated(target: &Target, inputs: &[Vec<u8>]) -> Option<String> {
    let number = |name: &str, default| var(name).map_or(default, |text| text.parse().unwrap());
    let seed = number("MARKREAD_FUZZ_SEED", SEED);
    let mutations = number("MARKREAD_FUZZ_MUTATIONS", MUTATIONS);
    let (mut mutator, began) = (Mutator::new(seed), Instant::now());
    for (nth, input) in (0..mutations).zip(inputs.iter().cycle()) {
        if began.elapsed() > TARGET_MAX && mutations == MUTATIONS {
            break;
        }
        let input = mutator.mutate(input, inputs, target.max_len);
        if let Some(problem) = try_input(target, &input) {
            let what = format!("mutation {nth} of seed {seed}");
            return Some(report(target, &what, &input, &problem));
        }
    }
    None
}

/// Panics with what a target of this name fails on.
fn check(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    if let Some(failure) = failure(target) {
        panic!("\n{failure}");
    }
}

/// A test of each target.
macro_rules! tests {
    ($($name:ident)*) => {
        /// The targets that have a test.
        const TESTED: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*
    };
}

tests! {
    form form_request oauth_header oauth_signed jwt jwt_claims jwk_set key_files credentials_file
    traceparent grpc_timeout page_token watch_position entry_id grpc_framing grpc_requests routing
    stream_entries script_replies relay_replies user_objects import_lines cluster_nodes redirections
    sentinels webhooks_file webhook_urls receivers flags first_bytes http2_frames
}

#[test]
fn each_target_has_a_test_and_a_corpus_and_nothing_else_has() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(TESTED.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), targets);
    let folders = fs::read_dir(corpora()).unwrap();
    let folders = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(folders.collect::<BTreeSet<_>>(), targets);
    for target in TARGETS {
        let corpus = corpus(target);
        assert!(corpus.len() >= 2, "{} has {} inputs", target.name, corpus.len());
        assert!(corpus.iter().all(|(_, input)| input.len() <= target.max_len), "{}", target.name);
    }
}

/// The harness itself: a target that fails is found, and its report names the input.
#[test]
fn a_target_that_fails_is_reported_with_its_input() {
    fn fails_on_a_seven(data: &[u8]) {
        assert!(!data.contains(&b'7'), "a seven");
    }
    let target = Target { name: "seven", run: fails_on_a_seven, max_len: 64, is_long: false };
    let before = take_hook();
    set_hook(Box::new(|_| {}));
    let found = mutated(&target, &[b"6".to_vec()]);
    set_hook(before);
    let found = found.unwrap();
    assert!(found.contains("a seven") && found.contains("MARKREAD_FUZZ_INPUT='"), "{found}");
}
