//! What pages link to and name exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use markread_harness::tools::file;

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
    kept.collect::<String>().replace(' ', "-")
}

fn anchors(page: &str) -> BTreeSet<String> {
    page.lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

/// Targets of a page's links to other files of the repository, or to its own headings.
fn links(page: &str) -> impl Iterator<Item = &str> {
    let targets = page.split("](").skip(1).filter_map(|text| text.split(')').next());
    targets.filter(|target| !target.contains("://"))
}

fn assert_leads_somewhere(page: &Path, target: &str) {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let linked = if path.is_empty() { page.to_owned() } else { page.with_file_name(path) };
    assert!(linked.exists(), "{target} of {}", page.display());
    if !anchor.is_empty() {
        let anchors = anchors(&fs::read_to_string(&linked).unwrap());
        assert!(anchors.contains(anchor), "{target} of {}: {anchors:?}", page.display());
    }
}

/// Files of the repository that a page names as code, such as `src/main.rs`.
fn named_files(page: &str) -> impl Iterator<Item = &str> {
    const FOLDERS: [&str; 7] =
        ["src/", "tests/", "docs/", "benches/", "helm/", "proto/", "examples/"];
    let code = page.split('`').skip(1).step_by(2).filter_map(|code| code.split(' ').next());
    code.filter(|name| FOLDERS.iter().any(|folder| name.starts_with(folder)) && !name.contains('*'))
}

/// The repository's pages, with their contents.
fn pages() -> Vec<(PathBuf, String)> {
    let folders = ["", "docs", "helm/markread"].map(file);
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let pages = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let mut followed = 0;
    for (path, page) in pages() {
        for target in links(&page) {
            assert_leads_somewhere(&path, target);
            followed += 1;
        }
    }
    assert!(followed > 50, "{followed} links");
}

#[test]
fn every_file_that_a_page_names_exists() {
    let mut named = 0;
    for (path, page) in pages() {
        for name in named_files(&page) {
            assert!(file(name).exists(), "{name} of {}", path.display());
            named += 1;
        }
    }
    assert!(named > 20, "{named} files");
}
