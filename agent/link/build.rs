//! Writes the build time into the crate: no clock is ever right when it shows an earlier time, and certificates are
//! back-dated to it.

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-changed=Cargo.toml");
    // https://reproducible-builds.org/specs/source-date-epoch/
    let seconds = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .or_else(|| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .ok()
                .map(|since| since.as_secs())
        })
        .unwrap_or_default();
    println!("cargo:rustc-env=MINIDC_BUILD_TIME={seconds}");
}
