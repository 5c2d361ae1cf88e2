//! `assemble DIRECTORY IMAGE`: puts the parts that the image build left in DIRECTORY together.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use minidc_image::assemble::{Parts, SIZES, assemble};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(parts), Some(image), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: assemble DIRECTORY IMAGE");
        return ExitCode::from(64);
    };
    let parts = Parts {
        selector: parts.join("selector"),
        boot: parts.join("boot"),
        slots: [parts.join("slot-a"), parts.join("slot-b")],
        root: parts.join("root.squashfs"),
        data: parts.join("data.ext4"),
    };
    match assemble(&parts, SIZES, &image) {
        Ok(table) => {
            for partition in &table.partitions {
                println!("{partition}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprint!("{error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}
