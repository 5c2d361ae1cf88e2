//! Builds the pause program for the target, to be embedded by `src/pause.rs`.
//!
//! It needs only `core`, which every compiler brings for its own targets, so a cross build works with whatever linker
//! Cargo was told to use.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/pause/main.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let target = variable("TARGET");
    let out = PathBuf::from(variable("OUT_DIR")).join("pause");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args([
            "--edition=2024",
            "--crate-type=bin",
            "--crate-name=pause",
            "--target",
            &target,
        ])
        .args([
            "-Copt-level=s",
            "-Cpanic=abort",
            "-Cforce-unwind-tables=no",
            "-Cstrip=symbols",
            "-Crelocation-model=static",
            "-Clink-arg=-nostartfiles",
            "-Clink-arg=-nostdlib",
            "-Clink-arg=-static",
            "-Clink-arg=-Wl,--build-id=none",
            "-Clink-arg=-Wl,-n",
        ]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    rustc.arg("-o").arg(&out).arg("src/pause/main.rs");
    let status = rustc.status().unwrap_or_else(|error| panic!("run {rustc:?}: {error}"));
    assert!(
        status.success(),
        "compile the pause program: {rustc:?} ended with {status}"
    );
    println!("cargo::rustc-env=MINIDC_PAUSE={}", out.display());
}
