//! `docs/performance.svg`: a bar for each workload, with the least and the most of its rounds, and a line
//! for each latency.

use std::fmt::Write;

use crate::figures::{Throughput, extremes, median};
use crate::latency::Pace;

const ROW: f64 = 26.0;
const TITLE: f64 = 30.0;
const LABELS: f64 = 290.0;
const BARS: f64 = 400.0;
const NUMBERS: f64 = 90.0;

/// Latencies are drawn from here on, on a logarithmic scale, in ms.
const LEAST_MS: f64 = 0.01;
const MOST_MS: f64 = 1000.0;

/// Readable on white and on black: the colours follow the reader's colour scheme.
const STYLE: &str = "text{font:13px sans-serif;fill:#222}.title{font-weight:bold}\
    .bar{fill:#4477aa}.script{fill:#bb7733}\
    .spread{stroke:#222;stroke-width:1.5}.latency{stroke:#4477aa;stroke-width:5}\
    .p99{fill:#bb7733}.grid{stroke:#999;stroke-width:0.5}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}.bar{fill:#6699cc}.spread{stroke:#ddd}\
    .latency{stroke:#6699cc}}";

pub(crate) fn of(throughput: &Throughput) -> String {
    let mut body = String::new();
    let height = bars(&mut body, throughput);
    let height = height + latencies(&mut body, throughput, height);
    let width = LABELS + BARS + NUMBERS;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\">\n\
         <title>Calls a second, and latencies</title>\n\
         <style>{STYLE}</style>\n{body}</svg>\n"
    )
}

/// Draws calls a second, and returns the height.
fn bars(svg: &mut String, throughput: &Throughput) -> f64 {
    let calls = throughput
        .measured
        .iter()
        .map(|measured| (measured.name.to_owned(), "bar", measured.calls_per_second.as_slice()));
    let scripts = throughput.scripts.iter().map(|script| {
        (format!("Redis: {}", script.name), "script", script.calls_per_second.as_slice())
    });
    let rows: Vec<_> = calls.chain(scripts).collect();
    let most = rows.iter().map(|(.., all)| extremes(all).1).fold(0.0, f64::max);
    let scale = |per_second: f64| BARS * per_second / most;
    title(svg, 0.0, "calls a second: median, least and most of the rounds");
    for (at, (name, class, all)) in rows.iter().enumerate() {
        let top = TITLE + ROW * at as f64;
        let middle = top + ROW / 2.0 - 2.0;
        let ((least, most), median) = (extremes(all), median(all));
        let (from, to) = (LABELS + scale(least), LABELS + scale(most));
        label(svg, middle, name);
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{LABELS}\" y=\"{top:.0}\" width=\"{:.1}\" \
             height=\"{:.0}\"/>\n\
             <path class=\"spread\" d=\"M{from:.1} {middle:.0}H{to:.1}\"/>\n\
             <text x=\"{:.0}\" y=\"{:.0}\">{median:.0}</text>",
            scale(median),
            ROW - 6.0,
            to.max(LABELS + scale(median)) + 6.0,
            middle + 5.0,
        );
    }
    TITLE + ROW * rows.len() as f64 + 10.0
}

/// Draws latencies below, and returns their height.
fn latencies(svg: &mut String, throughput: &Throughput, top: f64) -> f64 {
    let x_of = |ms: f64| {
        let part = (ms / LEAST_MS).log10() / (MOST_MS / LEAST_MS).log10();
        LABELS + BARS * part.clamp(0.0, 1.0)
    };
    let rows = &throughput.latencies;
    title(svg, top, "latency in ms: from p50 to p99.9, with p99");
    let (first, height) = (top + TITLE, TITLE + ROW * rows.len() as f64 + 20.0);
    let bottom = top + height - 18.0;
    for ms in [0.01, 0.1, 1.0, 10.0, 100.0] {
        let x = x_of(ms);
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{x:.1} {first:.0}V{bottom:.0}\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{ms}</text>",
            bottom + 14.0,
        );
    }
    for (at, row) in rows.iter().enumerate() {
        let middle = first + ROW * (at as f64 + 0.5) - 2.0;
        let pace = match row.pace {
            Pace::Fixed(per_second) => format!("{per_second:.0}/s"),
            Pace::Quarter => "25 %".to_owned(),
            Pace::QuarterOfMarks => "25 % of mark_read".to_owned(),
            Pace::Half => "50 %".to_owned(),
        };
        label(svg, middle, &format!("{}, {pace}", row.name));
        let [p50, p99, p999] = row.percentiles_us().map(|us| us / 1000.0);
        let _ = writeln!(
            svg,
            "<path class=\"latency\" d=\"M{:.1} {middle:.0}H{:.1}\"/>\n\
             <circle class=\"p99\" cx=\"{:.1}\" cy=\"{middle:.0}\" r=\"5\"/>\n\
             <text x=\"{:.0}\" y=\"{:.0}\">{p99:.2}</text>",
            x_of(p50),
            x_of(p999),
            x_of(p99),
            LABELS + BARS + 6.0,
            middle + 5.0,
        );
    }
    height
}

fn title(svg: &mut String, top: f64, text: &str) {
    let y = top + 18.0;
    let _ = writeln!(svg, "<text class=\"title\" x=\"{LABELS}\" y=\"{y:.0}\">{text}</text>");
}

fn label(svg: &mut String, middle: f64, text: &str) {
    let (x, y) = (LABELS - 8.0, middle + 5.0);
    let _ = writeln!(svg, "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"end\">{text}</text>");
}
