//! The image, opened once for all tests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use fatfs::{FileSystem, FsOptions};
use minidc_image::device::DeviceFile;
use minidc_image::layout::{Slot, Table};
use minidc_image::source::{Image, Packing};

use crate::tree::Tree;

pub(crate) struct Card {
    file: File,
    /// Bytes of the unpacked image.
    pub(crate) bytes: u64,
    /// Bytes of the packed file, if it is packed.
    pub(crate) packed: Option<u64>,
    pub(crate) table: Table,
    /// Files of the selector partition.
    pub(crate) selector: BTreeMap<String, Vec<u8>>,
    pub(crate) slots: [SlotFiles; 2],
    /// Root of slot A; that of B has the same bytes, which a test makes sure of.
    pub(crate) root: Tree,
    _directory: tempfile::TempDir,
}

pub(crate) struct SlotFiles {
    /// Files of the boot partition.
    pub(crate) boot: BTreeMap<String, Vec<u8>>,
    /// The root partition, as it is.
    pub(crate) root_bytes: Vec<u8>,
}

impl SlotFiles {
    /// The kernel, unpacked.
    pub(crate) fn kernel(&self) -> Vec<u8> {
        filter("gzip", &["-dc"], &self.boot["vmlinuz"])
    }

    /// The initrd's files.
    pub(crate) fn initrd(&self) -> Tree {
        Tree::from_cpio(&filter("zstd", &["-dc"], &self.boot["initrd.img"]))
    }
}

impl Card {
    /// Bytes of a partition.
    pub(crate) fn read(&self, partition: u32, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let start = self.table.get(partition).unwrap().start;
        self.file.read_exact_at(&mut bytes, start + offset).unwrap();
        bytes
    }
}

pub(crate) fn card() -> &'static Card {
    static CARD: OnceLock<Card> = OnceLock::new();
    CARD.get_or_init(|| {
        let path = std::env::var_os("MINIDC_IMAGE").expect("MINIDC_IMAGE names the image to look at");
        open(Path::new(&path))
    })
}

fn open(path: &Path) -> Card {
    let directory = tempfile::tempdir().unwrap();
    let image = Image::open(path).unwrap();
    let packed = (image.packing() != Packing::Raw).then(|| image.file_bytes());
    let raw = if packed.is_some() {
        unpack(&image, &directory.path().join("image"))
    } else {
        path.to_owned()
    };
    let file = File::open(&raw).unwrap();
    let table = Table::read(&mut DeviceFile::open_to_read(&raw).unwrap()).unwrap();
    let slots = [Slot::A, Slot::B].map(|slot| {
        let root = table.get(slot.root()).unwrap();
        let mut root_bytes = vec![0; usize::try_from(root.bytes).unwrap()];
        file.read_exact_at(&mut root_bytes, root.start).unwrap();
        SlotFiles {
            boot: fat_files(&file, &table, slot.boot()),
            root_bytes,
        }
    });
    let extracted = directory.path().join("root");
    let squashfs = directory.path().join("squashfs");
    fs::write(&squashfs, &slots[0].root_bytes).unwrap();
    let listing = run(Command::new("unsquashfs").arg("-lln").arg(&squashfs));
    run(Command::new("unsquashfs")
        .args(["-quiet", "-no-progress", "-no-xattrs", "-d"])
        .args([&extracted, &squashfs]));
    Card {
        bytes: file.metadata().unwrap().len(),
        packed,
        selector: fat_files(&file, &table, 1),
        root: Tree::from_listing(&String::from_utf8(listing).unwrap(), &extracted),
        slots,
        table,
        file,
        _directory: directory,
    }
}

/// With the same code as `minidc flash`, leaving holes.
fn unpack(image: &Image, to: &Path) -> PathBuf {
    let mut stream = image.stream().unwrap();
    let mut file = File::create(to).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        let read = stream.fill(&mut buffer).unwrap();
        length += read as u64;
        if buffer[..read].iter().all(|&byte| byte == 0) {
            file.seek(SeekFrom::Start(length)).unwrap();
        } else {
            file.write_all(&buffer[..read]).unwrap();
        }
        if read < buffer.len() {
            break;
        }
    }
    file.set_len(length).unwrap();
    to.to_owned()
}

fn fat_files(file: &File, table: &Table, number: u32) -> BTreeMap<String, Vec<u8>> {
    let partition = table.get(number).unwrap();
    let mut bytes = vec![0; usize::try_from(partition.bytes).unwrap()];
    file.read_exact_at(&mut bytes, partition.start).unwrap();
    let system = FileSystem::new(std::io::Cursor::new(bytes), FsOptions::new()).unwrap();
    let mut files = BTreeMap::new();
    for entry in system.root_dir().iter() {
        let entry = entry.unwrap();
        assert!(entry.is_file(), "{} is a directory", entry.file_name());
        let mut contents = Vec::new();
        entry.to_file().read_to_end(&mut contents).unwrap();
        files.insert(entry.file_name(), contents);
    }
    files
}

fn filter(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    file.rewind().unwrap();
    run(Command::new(program).args(arguments).stdin(file))
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
