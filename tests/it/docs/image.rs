//! What an image is built from: the stage that compiles it runs in no test.

use markread_harness::tools::file;

/// Cargo reads every member of a workspace, whatever is built.
#[test]
fn the_context_of_the_image_has_every_crate_of_the_workspace() {
    let manifest = include_str!("../../../Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let members: Vec<_> = members.split('"').skip(1).step_by(2).collect();
    let context = include_str!("../../../.dockerignore");
    let has = |pattern: &str| context.lines().any(|line| line == format!("!{pattern}"));
    assert!(has("tests/*/Cargo.toml") && has("tests/*/src"), "{context}");
    assert!(members.contains(&"tests/harness"), "{members:?}");
    for member in members {
        // `*` is one folder.
        let name = member.strip_prefix("tests/").unwrap();
        assert!(!name.contains('/'), "{member} is not in the context");
        assert!(file(member).join("src").exists(), "{member}/src, the only sources in the context");
    }
}

#[test]
fn the_context_of_the_image_has_what_the_dockerfile_runs() {
    let (dockerfile, context) =
        (include_str!("../../../Dockerfile"), include_str!("../../../.dockerignore"));
    let script = "tests/supply/release";
    assert!(dockerfile.contains(&format!("    {script} &&")), "{dockerfile}");
    assert!(context.lines().any(|line| line == format!("!{script}")), "{context}");
}
