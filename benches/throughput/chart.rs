//! `docs/performance.svg`: a bar for each workload, with the least and the most of its rounds.

use std::fmt::Write;

use crate::figures::{Throughput, extremes, median};

const ROW: f64 = 26.0;
const LABELS: f64 = 250.0;
const BARS: f64 = 400.0;
const NUMBERS: f64 = 90.0;

/// Readable on white and on black: the colours follow the reader's colour scheme.
const STYLE: &str = "text{font:13px sans-serif;fill:#222}.bar{fill:#4477aa}.script{fill:#bb7733}\
    .spread{stroke:#222;stroke-width:1.5}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}.bar{fill:#6699cc}.spread{stroke:#ddd}}";

pub(crate) fn of(throughput: &Throughput) -> String {
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
    let (width, height) = (LABELS + BARS + NUMBERS, ROW * rows.len() as f64 + 4.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\">\n\
         <title>Calls a second, median; the line is from the least to the most round</title>\n\
         <style>{STYLE}</style>\n"
    );
    for (at, (name, class, all)) in rows.iter().enumerate() {
        let top = ROW * at as f64 + 4.0;
        let middle = top + ROW / 2.0 - 2.0;
        let ((least, most), median) = (extremes(all), median(all));
        let (from, to) = (LABELS + scale(least), LABELS + scale(most));
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{name}</text>\n\
             <rect class=\"{class}\" x=\"{LABELS}\" y=\"{top:.0}\" width=\"{:.1}\" \
             height=\"{:.0}\"/>\n\
             <path class=\"spread\" d=\"M{from:.1} {middle:.0}H{to:.1}\"/>\n\
             <text x=\"{:.0}\" y=\"{:.0}\">{median:.0}</text>",
            LABELS - 8.0,
            middle + 5.0,
            scale(median),
            ROW - 6.0,
            to.max(LABELS + scale(median)) + 6.0,
            middle + 5.0,
        );
    }
    svg.push_str("</svg>\n");
    svg
}
