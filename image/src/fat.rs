//! Files of a FAT partition, read and written inside an image file or a card without mounting it.
//!
//! Everything goes through a window of whole 4096-byte blocks, so that it works with direct I/O: blocks are read once, changed in
//! memory, and written at the end in one pass. What was written is then read again from the card and compared.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use crate::Error;
use crate::device::{self, Aligned, BLOCK, Target};
use crate::layout::{LEAST_FAT, Partition};

/// Most bytes of a file that is read; the seed and its like are far smaller.
pub const MOST: u64 = 4 << 20;
/// Most reads of one visit: a damaged chain of clusters may go in circles.
const MOST_READS: u32 = 4_000_000;

/// A file in the root directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Name, without a directory.
    pub name: String,
    /// Contents.
    pub contents: Vec<u8>,
}

/// Makes an empty file system, FAT32 where that is possible; `label` is cut to 11 characters. For stand-in images: the image build
/// makes its own.
pub fn format(target: &mut dyn Target, partition: &Partition, label: &str) -> Result<(), Error> {
    let mut name = [b' '; 11];
    for (to, from) in name.iter_mut().zip(label.bytes()) {
        *to = from.to_ascii_uppercase();
    }
    let mut window = Window::new(target, partition);
    let mut options = FormatVolumeOptions::new().volume_label(name);
    if (LEAST_FAT..=256 << 20).contains(&partition.bytes) {
        // Larger clusters would be too few for FAT32.
        options = options.fat_type(fatfs::FatType::Fat32).bytes_per_cluster(512);
    }
    fatfs::format_volume(&mut window, options)
        .and_then(|()| window.store())
        .map_err(failed("format", label))
}

/// Names in the root directory.
pub fn list(target: &mut dyn Target, partition: &Partition) -> Result<Vec<String>, Error> {
    visit(target, partition, |root| {
        root.iter()
            .filter(|entry| entry.as_ref().map_or(true, |entry| !entry.file_name().starts_with('.')))
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect()
    })
    .map_err(failed("list", "/"))
}

/// Contents of a file in the root directory; `None` if there is none.
pub fn read(target: &mut dyn Target, partition: &Partition, name: &str) -> Result<Option<Vec<u8>>, Error> {
    visit(target, partition, |root| {
        let file = match root.open_file(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut contents = Vec::new();
        file.take(MOST + 1).read_to_end(&mut contents)?;
        if contents.len() as u64 > MOST {
            return Err(io::Error::other(format!("it is larger than {MOST} bytes")));
        }
        Ok(Some(contents))
    })
    .map_err(failed("read", name))
}

/// Writes files into the root directory, replacing those that are there, then reads each from the card and compares.
pub fn write(target: &mut dyn Target, partition: &Partition, files: &[File]) -> Result<(), Error> {
    if files.is_empty() {
        return Ok(());
    }
    let names = files
        .iter()
        .map(|file| file.name.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    change(target, partition, |root| {
        for file in files {
            let mut handle = root.create_file(&file.name)?;
            handle.truncate()?;
            handle.write_all(&file.contents)?;
            handle.flush()?;
        }
        Ok(())
    })
    .map_err(failed("write", &names))?;
    for file in files {
        if read(target, partition, &file.name)?.as_ref() != Some(&file.contents) {
            return Err(Error::FileMismatch {
                name: file.name.clone(),
            });
        }
    }
    Ok(())
}

/// Puts other contents into the clusters that a file has already, filled up with line ends to its old length, so that nothing of the old
/// contents is left on the card and neither tables nor directory change: a power cut leaves each sector old or new, and the file system
/// sound. What is longer than before is added as in [`write()`]. Returns what the file holds now.
pub fn overwrite(
    target: &mut dyn Target,
    partition: &Partition,
    name: &str,
    contents: &[u8],
) -> Result<Vec<u8>, Error> {
    let mut all = contents.to_vec();
    let filler = &mut all;
    change(target, partition, |root| {
        let mut file = root.open_file(name)?;
        let length = file.seek(SeekFrom::End(0))?;
        if length > MOST {
            return Err(io::Error::other(format!("it is larger than {MOST} bytes")));
        }
        filler.resize(filler.len().max(usize::try_from(length).unwrap_or(0)), b'\n');
        file.seek(SeekFrom::Start(0))?;
        file.write_all(filler)?;
        file.flush()
    })
    .map_err(failed("write", name))?;
    if read(target, partition, name)?.as_ref() != Some(&all) {
        return Err(Error::FileMismatch { name: name.to_owned() });
    }
    Ok(all)
}

/// Removes a file from the root directory; that there is none is no error.
pub fn remove(target: &mut dyn Target, partition: &Partition, name: &str) -> Result<(), Error> {
    change(target, partition, |root| match root.remove(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    })
    .map_err(failed("remove", name))
}

/// Sorts failures: those of the card keep their own words.
fn failed(attempt: &'static str, name: &str) -> impl FnOnce(io::Error) -> Error {
    let name = name.to_owned();
    move |source| match source.downcast::<Carried>() {
        Ok(carried) => carried.0,
        Err(source) => Error::Fat { attempt, name, source },
    }
}

type Root<'a, 'w, 't> = fatfs::Dir<'a, &'w mut Window<'t>>;

fn visit<T>(
    target: &mut dyn Target,
    partition: &Partition,
    work: impl for<'a, 'w, 't> FnOnce(&Root<'a, 'w, 't>) -> io::Result<T>,
) -> io::Result<T> {
    let mut window = Window::new(target, partition);
    let system = FileSystem::new(&mut window, FsOptions::new())?;
    work(&system.root_dir())
}

fn change<T>(
    target: &mut dyn Target,
    partition: &Partition,
    work: impl for<'a, 'w, 't> FnOnce(&Root<'a, 'w, 't>) -> io::Result<T>,
) -> io::Result<T> {
    let mut window = Window::new(target, partition);
    let system = FileSystem::new(&mut window, FsOptions::new())?;
    let result = work(&system.root_dir())?;
    system.unmount()?;
    window.store()?;
    Ok(result)
}

/// An error of the card on its way through `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Carried(Error);

struct Block {
    bytes: Aligned,
    changed: bool,
}

/// A partition as a file in memory, filled from the card as needed.
struct Window<'t> {
    target: &'t mut dyn Target,
    start: u64,
    length: u64,
    position: u64,
    blocks: BTreeMap<u64, Block>,
    reads: u32,
}

impl<'t> Window<'t> {
    fn new(target: &'t mut dyn Target, partition: &Partition) -> Self {
        Self {
            target,
            start: partition.start,
            length: partition.bytes,
            position: 0,
            blocks: BTreeMap::new(),
            reads: 0,
        }
    }

    /// The block at the position, the place in it, and how many of `wanted` bytes are in it.
    fn block(&mut self, wanted: usize) -> io::Result<(&mut Block, usize, usize)> {
        let size = BLOCK as u64;
        let number = self.position / size;
        let inside = usize::try_from(self.position % size).map_err(io::Error::other)?;
        let left = usize::try_from(self.length - self.position).unwrap_or(usize::MAX);
        let block = match self.blocks.entry(number) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let mut bytes = Aligned::new(BLOCK);
                device::read_exact(self.target, self.start + number * size, &mut bytes)
                    .map_err(|error| io::Error::other(Carried(error)))?;
                entry.insert(Block { bytes, changed: false })
            }
        };
        Ok((block, inside, wanted.min(BLOCK - inside).min(left)))
    }

    /// Writes the changed blocks to the card.
    fn store(&mut self) -> io::Result<()> {
        let mut last = self.start;
        for (number, block) in &mut self.blocks {
            if block.changed {
                last = self.start + number * BLOCK as u64;
                device::write_all(self.target, last, &block.bytes).map_err(|error| io::Error::other(Carried(error)))?;
                block.changed = false;
            }
        }
        device::flush(self.target, last).map_err(|error| io::Error::other(Carried(error)))
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.length || buffer.is_empty() {
            return Ok(0);
        }
        self.reads += 1;
        if self.reads > MOST_READS {
            return Err(io::Error::other("the file system is damaged: it goes in circles"));
        }
        let (block, inside, length) = self.block(buffer.len())?;
        buffer[..length].copy_from_slice(&block.bytes[inside..inside + length]);
        self.position += length as u64;
        Ok(length)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.position >= self.length {
            return Ok(0);
        }
        let (block, inside, length) = self.block(buffer.len())?;
        let place = &mut block.bytes[inside..inside + length];
        if place != &buffer[..length] {
            place.copy_from_slice(&buffer[..length]);
            block.changed = true;
        }
        self.position += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        // The blocks go out together, in `store`.
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = device::sought(self.position, self.length, to)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::faulty::{Fault, Faulty, Memory};

    fn card() -> (Memory, Partition) {
        let partition = Partition {
            number: 1,
            kind: crate::layout::FAT,
            start: 4 << 20,
            bytes: 40 << 20,
        };
        let mut memory = Memory::used(48 << 20);
        format(&mut memory, &partition, "minidc").unwrap();
        (memory, partition)
    }

    fn file(name: &str, contents: &[u8]) -> File {
        File {
            name: name.into(),
            contents: contents.into(),
        }
    }

    #[test]
    fn files_are_written_replaced_listed_and_removed_without_a_mount() {
        let (mut card, partition) = card();
        assert_eq!(read(&mut card, &partition, "minidc.toml").unwrap(), None);
        write(
            &mut card,
            &partition,
            &[file("minidc.toml", &[b'x'; 20_000]), file("autoboot.txt", b"[all]\n")],
        )
        .unwrap();
        write(&mut card, &partition, &[file("minidc.toml", b"short")]).unwrap();
        assert_eq!(read(&mut card, &partition, "MINIDC.TOML").unwrap().unwrap(), b"short");
        assert_eq!(
            read(&mut card, &partition, "autoboot.txt").unwrap().unwrap(),
            b"[all]\n"
        );
        let mut names = list(&mut card, &partition).unwrap();
        names.sort();
        assert_eq!(names, ["autoboot.txt", "minidc.toml"]);
        remove(&mut card, &partition, "minidc.toml").unwrap();
        remove(&mut card, &partition, "minidc.toml").unwrap();
        assert_eq!(read(&mut card, &partition, "minidc.toml").unwrap(), None);
    }

    #[test]
    fn overwritten_contents_leave_no_trace_and_the_tables_as_they_were() {
        let (mut card, partition) = card();
        let secret = b"not-to-be-found-again".repeat(100);
        write(&mut card, &partition, &[file("minidc.toml", &secret)]).unwrap();
        let before = card.0.clone();
        let now = overwrite(&mut card, &partition, "minidc.toml", b"plain\n").unwrap();
        assert_eq!(now.len(), secret.len());
        assert!(now.starts_with(b"plain\n\n\n"));
        assert_eq!(read(&mut card, &partition, "minidc.toml").unwrap().unwrap(), now);
        assert!(!card.0.windows(21).any(|bytes| bytes == b"not-to-be-found-again"));
        let changed: Vec<usize> = (0..before.len()).filter(|at| before[*at] != card.0[*at]).collect();
        assert!(
            changed[changed.len() - 1] - changed[0] < 8 << 10,
            "only the file's own clusters"
        );
        let longer = [b'x'; 9000];
        assert_eq!(
            overwrite(&mut card, &partition, "minidc.toml", &longer).unwrap(),
            longer
        );
    }

    #[test]
    fn nothing_outside_the_partition_is_touched() {
        let (mut card, partition) = card();
        let before = card.0.clone();
        write(&mut card, &partition, &[file("minidc.toml", b"cluster")]).unwrap();
        let start = usize::try_from(partition.start).unwrap();
        let end = usize::try_from(partition.end()).unwrap();
        assert!(before[..start] == card.0[..start]);
        assert!(before[end..] == card.0[end..]);
    }

    #[test]
    fn lost_and_flipped_writes_are_noticed() {
        let (card, partition) = card();
        let files = [file("minidc.toml", b"cluster = \"rack1\"")];
        let mut copy = Memory(card.0.clone());
        write(&mut copy, &partition, &files).unwrap();
        let at = copy.0.windows(7).position(|bytes| bytes == b"cluster").unwrap() as u64;
        let mut flipping = Faulty::new(Memory(card.0.clone()), Fault::FlipBit { at });
        assert!(matches!(
            write(&mut flipping, &partition, &files),
            Err(Error::FileMismatch { .. })
        ));
        let mut forgetting = Faulty::new(card, Fault::Forgets { from: partition.start });
        assert!(matches!(
            write(&mut forgetting, &partition, &files),
            Err(Error::FileMismatch { .. })
        ));
    }

    #[test]
    fn a_damaged_file_system_is_an_error() {
        let (mut card, partition) = card();
        let start = usize::try_from(partition.start).unwrap();
        card.0[start..start + 512].fill(0);
        assert!(matches!(
            read(&mut card, &partition, "minidc.toml"),
            Err(Error::Fat { .. })
        ));
    }
}
