//! Container logs: reading, following and rotating the files that containerd writes in CRI's format.

pub(crate) mod line;
mod reader;
pub(crate) mod rotation;

pub(crate) mod serve;

use reader::{LogReader, Options};
