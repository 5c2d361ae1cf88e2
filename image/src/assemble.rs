//! Puts the parts of an image together: table, selector, and both slots with the same boot files and root, then data.
//!
//! The same parts give the same bytes: FAT file systems get fixed serial numbers and times, and files in the order of their names.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use crate::device;
use crate::layout::{DATA, LEAST_FAT, LayoutError, Partition, SELECTOR, Sizes, Slot, Table, autoboot};
use crate::seed;

/// Signature of the disk in every image: `PARTUUID` of a root is `6d696e69-05` or `6d696e69-06`.
pub const DISK: u32 = 0x6d69_6e69;

/// Sizes of an image's partitions: both slots have room for what later versions bring, and it all fits a card of 2 GB.
pub const SIZES: Sizes = Sizes {
    selector: 40 << 20,
    boot: 96 << 20,
    root: 384 << 20,
    data: 256 << 20,
};

/// What is put together.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Directory whose files go to the selector partition; `autoboot.txt` and an empty seed are added.
    pub selector: PathBuf,
    /// Directory with the boot files that both slots have.
    pub boot: PathBuf,
    /// Directories with those that differ (`cmdline.txt`), of slot A and B.
    pub slots: [PathBuf; 2],
    /// Root file system of both slots.
    pub root: PathBuf,
    /// Data file system.
    pub data: PathBuf,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A part cannot be read, or the image not written.
    #[error("{attempt} {path}")]
    File {
        /// What was tried.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A part is larger than its partition.
    #[error("{path} has {bytes} bytes, its partition {room}")]
    TooLarge {
        /// The part.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The partition's.
        room: u64,
    },
    /// The sizes make no table.
    #[error("plan the partitions")]
    Layout(#[from] LayoutError),
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AssembleError {
    let path = path.to_owned();
    move |source| AssembleError::File { attempt, path, source }
}

/// Writes the image, sparse where it is empty. Returns its table.
pub fn assemble(parts: &Parts, sizes: Sizes, image: &Path) -> Result<Table, AssembleError> {
    let table = Table::plan(DISK, sizes)?;
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(image)
        .map_err(failed("create", image))?;
    file.set_len(table.end()).map_err(failed("size", image))?;
    for (offset, sector) in table.sectors() {
        file.write_all_at(&sector, offset).map_err(failed("write", image))?;
    }
    let partition = |number| {
        table
            .get(number)
            .ok_or_else(|| LayoutError::Unexpected(vec![format!("partition {number} is missing")]))
    };

    let mut selector = collect(&parts.selector)?;
    selector.push(("autoboot.txt".into(), autoboot(Slot::A).into_bytes()));
    selector.push((seed::FILE.into(), seed::template().into()));
    write_fat(&file, image, partition(SELECTOR)?, "MINIDC", &selector)?;
    for (slot, own, label) in [
        (Slot::A, &parts.slots[0], "MINIDC-A"),
        (Slot::B, &parts.slots[1], "MINIDC-B"),
    ] {
        let mut files = collect(&parts.boot)?;
        files.extend(collect(own)?);
        write_fat(&file, image, partition(slot.boot())?, label, &files)?;
        copy(&parts.root, &file, image, partition(slot.root())?)?;
    }
    copy(&parts.data, &file, image, partition(DATA)?)?;
    file.sync_all().map_err(failed("write", image))?;
    Ok(table)
}

type NamedFile = (String, Vec<u8>);

/// The regular files of a directory, by name.
fn collect(directory: &Path) -> Result<Vec<NamedFile>, AssembleError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
        let path = entry.map_err(failed("list", directory))?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        files.push((name, fs::read(&path).map_err(failed("read", &path))?));
    }
    files.sort();
    Ok(files)
}

fn write_fat(
    file: &File,
    image: &Path,
    partition: &Partition,
    label: &str,
    files: &[NamedFile],
) -> Result<(), AssembleError> {
    let mut name = [b' '; 11];
    for (to, from) in name.iter_mut().zip(label.bytes()) {
        *to = from;
    }
    let mut options = FormatVolumeOptions::new()
        .fat_type(fatfs::FatType::Fat32)
        .volume_label(name)
        .volume_id(DISK + partition.number);
    // The largest clusters that still make enough of them for FAT32.
    if partition.bytes < 2 * LEAST_FAT {
        options = options.bytes_per_cluster(512);
    } else {
        options = options.bytes_per_cluster(1024);
    }
    let mut slice = Slice {
        file,
        start: partition.start,
        length: partition.bytes,
        position: 0,
    };
    fatfs::format_volume(&mut slice, options).map_err(failed("format a partition of", image))?;
    slice.rewind().map_err(failed("format a partition of", image))?;
    let system = FileSystem::new(&mut slice, FsOptions::new()).map_err(failed("open a partition of", image))?;
    for (name, contents) in files {
        system
            .root_dir()
            .create_file(name)
            .and_then(|mut to| to.write_all(contents).and_then(|()| to.flush()))
            .map_err(failed("write", Path::new(name)))?;
    }
    system.unmount().map_err(failed("write to", image))
}

/// Copies a file to a partition, leaving holes where it is zero.
fn copy(from: &Path, file: &File, image: &Path, partition: &Partition) -> Result<(), AssembleError> {
    let mut source = File::open(from).map_err(failed("open", from))?;
    let bytes = source.metadata().map_err(failed("look at", from))?.len();
    if bytes > partition.bytes {
        return Err(AssembleError::TooLarge {
            path: from.to_owned(),
            bytes,
            room: partition.bytes,
        });
    }
    let mut buffer = vec![0; 1 << 20];
    let mut offset = partition.start;
    loop {
        let length = source.read(&mut buffer).map_err(failed("read", from))?;
        if length == 0 {
            return Ok(());
        }
        if buffer[..length].iter().any(|&byte| byte != 0) {
            file.write_all_at(&buffer[..length], offset)
                .map_err(failed("write", image))?;
        }
        offset += length as u64;
    }
}

/// A partition as a file.
struct Slice<'f> {
    file: &'f File,
    start: u64,
    length: u64,
    position: u64,
}

impl Slice<'_> {
    fn room(&self, wanted: usize) -> usize {
        wanted.min(usize::try_from(self.length.saturating_sub(self.position)).unwrap_or(usize::MAX))
    }
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.room(buffer.len());
        let length = self.file.read_at(&mut buffer[..room], self.start + self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

impl Write for Slice<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let room = self.room(buffer.len());
        let length = self.file.write_at(&buffer[..room], self.start + self.position)?;
        self.position += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Slice<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = device::sought(self.position, self.length, to)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceFile, Target};
    use crate::fat;

    fn parts(below: &Path) -> Parts {
        let file = |name: &str, contents: &[u8]| {
            let path = below.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, contents).unwrap();
            path
        };
        file("selector/bootcode.bin", b"first stage");
        file("boot/vmlinuz", &[7; 300_000]);
        file("a/cmdline.txt", b"root=PARTUUID=6d696e69-05\n");
        file("b/cmdline.txt", b"root=PARTUUID=6d696e69-06\n");
        Parts {
            selector: below.join("selector"),
            boot: below.join("boot"),
            slots: [below.join("a"), below.join("b")],
            root: file("root.squashfs", &[b"hsqs".as_slice(), &[0; 2 << 20], b"end"].concat()),
            data: file("data.ext4", &[3; 4096]),
        }
    }

    fn small() -> Sizes {
        Sizes {
            selector: LEAST_FAT,
            boot: LEAST_FAT,
            root: 8 << 20,
            data: 4 << 20,
        }
    }

    #[test]
    fn both_slots_are_whole_and_differ_only_in_their_command_line() {
        let directory = tempfile::tempdir().unwrap();
        let parts = parts(directory.path());
        let image = directory.path().join("image");
        let table = assemble(&parts, small(), &image).unwrap();
        let mut target = DeviceFile::open_to_read(&image).unwrap();
        assert_eq!(Table::read(&mut target).unwrap(), table);
        table.check(target.bytes()).unwrap();
        let read = |target: &mut DeviceFile, number, name: &str| {
            fat::read(target, table.get(number).unwrap(), name).unwrap().unwrap()
        };
        assert_eq!(read(&mut target, 1, "autoboot.txt"), autoboot(Slot::A).into_bytes());
        assert_eq!(read(&mut target, 1, seed::FILE), seed::template().as_bytes());
        for (slot, partuuid) in [(Slot::A, "6d696e69-05"), (Slot::B, "6d696e69-06")] {
            assert_eq!(read(&mut target, slot.boot(), "vmlinuz"), [7; 300_000]);
            let line = read(&mut target, slot.boot(), "cmdline.txt");
            assert_eq!(String::from_utf8(line).unwrap(), format!("root=PARTUUID={partuuid}\n"));
            let mut root = vec![0; 4096];
            crate::device::read_exact(&mut target, table.get(slot.root()).unwrap().start, &mut root).unwrap();
            assert!(root.starts_with(b"hsqs"));
        }
    }

    #[test]
    fn the_same_parts_give_the_same_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let parts = parts(directory.path());
        let images = ["one", "two"].map(|name| {
            let image = directory.path().join(name);
            assemble(&parts, small(), &image).unwrap();
            fs::read(image).unwrap()
        });
        assert!(images[0] == images[1]);
    }

    #[test]
    fn a_root_that_does_not_fit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let parts = parts(directory.path());
        let sizes = Sizes {
            root: 1 << 20,
            ..small()
        };
        // Rounded up to 4 MiB, it still fits; a larger one does not.
        fs::write(&parts.root, vec![1; 5 << 20]).unwrap();
        assert!(matches!(
            assemble(&parts, sizes, &directory.path().join("image")),
            Err(AssembleError::TooLarge { .. })
        ));
    }

    #[test]
    fn an_image_fits_a_card_of_two_gigabytes() {
        assert!(Table::plan(DISK, SIZES).unwrap().end() < 1_900_000_000);
    }
}
