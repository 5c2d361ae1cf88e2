//! The pause image: what holds a pod's namespaces open. Made here so that no registry is ever needed.
//!
//! The program is `pause/main.rs`, compiled by the build script for the target of the agent itself.

use crate::archive::{File, ImageBuilder};

/// Name of the image; containerd's `sandbox_image` must be set to it.
pub const IMAGE: &str = "minidc.local/pause:1";

/// The program, a static executable of about a kilobyte.
pub const PROGRAM: &[u8] = include_bytes!(env!("MINIDC_PAUSE"));

/// The image, called `name`, as an archive that `ctr images import` takes.
///
/// # Errors
/// None in practice: the archive is written to memory.
pub fn archive(name: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ImageBuilder::new(name)
        .entrypoint(["/pause"])
        .file(File::program("/pause", PROGRAM))
        .write_to(&mut bytes)?;
    Ok(bytes)
}
