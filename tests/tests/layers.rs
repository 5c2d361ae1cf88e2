//! The crates of the workspace use each other only as agent/README.md says.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

/// Who may use whom, dev-dependencies aside.
const ALLOWED: &[(&str, &[&str])] = &[
    ("minidc-api", &[]),
    ("minidc-hardware", &[]),
    ("minidc-image", &[]),
    ("minidc-store", &[]),
    ("minidc-apiserver", &["minidc-api", "minidc-store"]),
    ("minidc-controllers", &["minidc-api"]),
    ("minidc-kubelet", &["minidc-api"]),
    ("minidc-net", &[]),
    ("minidc-link", &["minidc-api"]),
    ("minidc-rack", &["minidc-hardware"]),
    (
        "minidc",
        &[
            "minidc-api",
            "minidc-apiserver",
            "minidc-controllers",
            "minidc-hardware",
            "minidc-image",
            "minidc-kubelet",
            "minidc-link",
            "minidc-net",
            "minidc-rack",
            "minidc-store",
        ],
    ),
];

#[test]
fn crates_use_each_other_only_along_the_allowed_edges() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let members: BTreeSet<&str> = packages
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        if name == "minidc-tests" {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(member, _)| *member == name) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            if members.contains(used) && dependency["kind"] != "dev" && !allowed.contains(&used) {
                wrong.push(format!("{name} -> {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "edges that agent/README.md does not allow: {wrong:?}");
}
