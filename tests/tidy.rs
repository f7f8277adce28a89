//! The house rules that no other tool checks.
#![allow(clippy::expect_used, clippy::panic, reason = "this is a test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Longest Rust file, in lines.
const MAX_LINES: usize = 600;
/// Words that say nothing about what is in a file.
const EMPTY_NAMES: &[&str] = &["util", "helper", "common", "misc", "manager"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files that git knows, and those that it would.
fn files(pattern: &str) -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--", pattern])
        .current_dir(root())
        .output()
        .expect("git runs");
    let text = String::from_utf8(output.stdout).expect("names are UTF-8");
    let files: Vec<_> =
        text.lines().filter(|name| root().join(name).is_file()).map(str::to_owned).collect();
    assert!(!files.is_empty(), "git lists no {pattern}");
    files
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn rust_files_say_what_they_are_for_and_are_short() {
    let mut wrong = Vec::new();
    for name in files("*.rs") {
        let text = read(&name);
        if !text.starts_with("//!") {
            wrong.push(format!("{name}: does not begin with //!"));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{name}: {lines} lines, at most {MAX_LINES}"));
        }
        let file = name.rsplit('/').next().unwrap_or(&name);
        if EMPTY_NAMES.iter().any(|word| file.contains(word)) || file == "mod.rs" {
            wrong.push(format!("{name}: the name says nothing"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What lies in the project's root: whatever else is there came by accident.
const TOP: &[&str] = &[
    ".ci",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "clippy.toml",
    "migrations",
    "ops",
    "provisioner",
    "router",
    "rustfmt.toml",
    "tenant-app",
    "tests",
];

#[test]
fn nothing_strange_lies_at_the_top() {
    let strange: Vec<_> = files("*")
        .into_iter()
        .filter(|name| !TOP.contains(&name.split('/').next().unwrap_or(name)))
        .collect();
    assert!(strange.is_empty(), "not part of the project: {strange:?}");
}

/// Who may depend on whom: a crate, and all of ours that it may name.
const EDGES: &[(&str, &[&str])] = &[
    ("migrations/control-types", &[]),
    ("migrations", &[]),
    ("router", &["control-types"]),
    ("tenant-app", &["control-types"]),
    ("provisioner/api", &["control-types"]),
    ("provisioner", &["control-types", "provisioner-api", "migrations"]),
    ("ops", &["control-types", "provisioner-api"]),
];
const OURS: &[&str] = &[
    "control-types",
    "migrations",
    "router",
    "tenant-app",
    "provisioner-api",
    "provisioner",
    "ops",
];

#[test]
fn crates_depend_only_on_what_they_may() {
    for (path, allowed) in EDGES {
        let manifest = read(&format!("{path}/Cargo.toml"));
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or(&manifest);
        for name in OURS {
            let named = dependencies.lines().any(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '.', '=']))
            });
            assert!(!named || allowed.contains(name), "{path} must not depend on {name}");
        }
    }
}

/// What must never come into the router's tree of dependencies.
const NOT_IN_ROUTER: &[&str] = &["refinery", "axum", "instant-acme", "kube", "reqwest", "openssl"];

#[test]
fn the_router_stays_small() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-p", "router", "-e", "normal", "--prefix", "none"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let tree = String::from_utf8(output.stdout).expect("names are UTF-8");
    assert!(tree.contains("hyper "), "no tree: {}", String::from_utf8_lossy(&output.stderr));
    for name in NOT_IN_ROUTER {
        let found = tree.lines().any(|line| line.split(' ').next() == Some(name));
        assert!(!found, "{name} is in the router's tree");
    }
}

#[test]
fn every_operation_kind_is_in_the_runbook() {
    let runbook = read("ops/runbooks/stuck_operation.md");
    for kind in control_types::state::OperationKind::ALL {
        assert!(runbook.contains(kind.as_str()), "the runbook does not name {kind}");
    }
}
