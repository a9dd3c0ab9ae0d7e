//! The limits of the figures, in `limits.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, ExitCode};

use serde::Deserialize;

pub(crate) const FILE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/limits.toml");

/// Instructions of a mark.
pub(crate) struct Figure {
    pub(crate) of: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) instructions: u64,
}

/// What a figure depends on besides the code.
#[derive(Deserialize, PartialEq, Eq)]
pub(crate) struct Place {
    architecture: String,
    /// Redis's version: major and minor.
    redis: String,
}

/// The contents of `limits.toml`.
#[derive(Deserialize)]
pub(crate) struct Limits {
    measured: String,
    margin_percent: u64,
    #[serde(flatten)]
    place: Place,
    /// By process, then kind.
    instructions: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Place {
    pub(crate) fn here() -> Self {
        let version = first_line("redis-server", "--version");
        let version = version.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap();
        let redis = version.rsplit_once('.').unwrap().0.to_owned();
        Self { architecture: std::env::consts::ARCH.to_owned(), redis }
    }
}

impl Limits {
    pub(crate) fn read() -> Self {
        toml::from_str(&fs::read_to_string(FILE).unwrap()).expect(FILE)
    }

    /// Prints the figures beside their limits, and fails if one is above. Figures of another place
    /// are not comparable, and are printed alone.
    pub(crate) fn judge(&self, here: &Place, figures: &[Figure]) -> ExitCode {
        let Self { measured, margin_percent, place, instructions } = self;
        println!("{:8} {:16} {:>12} {:>12} {:>8}", "", "", "instructions", "limit", "of it");
        let mut too_many = Vec::new();
        for figure in figures {
            let Figure { of, kind, instructions: now } = figure;
            print!("{of:8} {kind:16} {now:12}");
            if !self.comparable(here, of) {
                println!("{:>12}", "-");
                continue;
            }
            let limit = instructions[*of][*kind] * (100 + margin_percent) / 100;
            println!(" {limit:12} {:6} %", now * 100 / limit);
            if *now > limit {
                too_many.push(figure);
            }
        }
        if here != place {
            println!(
                "measured on {} with Redis {}, the limits on {} with Redis {}: figures that depend on \
                 the difference are not compared",
                here.architecture, here.redis, place.architecture, place.redis
            );
        }
        for Figure { of, kind, instructions: now } in &too_many {
            let then = instructions[*of][*kind];
            println!(
                "\n{of} {kind}: a mark costs {now} instructions, more than {margin_percent} % above \
                 the {then} of {measured}\n  \
                 callgrind_annotate --threshold=100 target/tmp/instructions/{of}.{kind}\n  \
                 shows where they go. To accept all figures as they are now:\n  \
                 cargo bench --bench instructions -- --refresh"
            );
        }
        if too_many.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn comparable(&self, here: &Place, of: &str) -> bool {
        let same_redis = of != "redis" || here.redis == self.place.redis;
        here.architecture == self.place.architecture && same_redis
    }
}

/// Writes the figures with their place and date into the file, and keeps its comments.
pub(crate) fn refresh(here: &Place, figures: &[Figure]) {
    let mut section = String::new();
    let lines: Vec<String> = fs::read_to_string(FILE)
        .unwrap()
        .lines()
        .map(|line| {
            if line.starts_with('[') {
                line.clone_into(&mut section);
            }
            let Some((key, _)) = line.split_once(" = ") else { return line.to_owned() };
            let figure = figures.iter().find(|figure| {
                section == format!("[instructions.{}]", figure.of) && figure.kind == key
            });
            match (key, figure) {
                (_, Some(figure)) => format!("{key} = {}", figure.instructions),
                ("measured", _) => format!("{key} = {:?}", first_line("date", "+%F")),
                ("architecture", _) => format!("{key} = {:?}", here.architecture),
                ("redis", _) => format!("{key} = {:?}", here.redis),
                _ => line.to_owned(),
            }
        })
        .collect();
    fs::write(FILE, lines.join("\n") + "\n").unwrap();
}

fn first_line(program: &str, word: &str) -> String {
    let output = Command::new(program).arg(word).output().expect(program);
    String::from_utf8(output.stdout).unwrap().lines().next().unwrap_or_default().to_owned()
}
