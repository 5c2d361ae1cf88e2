//! Flashing, and everything that may go wrong with it. Each failure is an error that says what happened, and never leaves a card
//! that looks good.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use lzma_rust2::{XzOptions, XzWriter};
use minidc_image::Error;
use minidc_image::device::Target;
use minidc_image::device::faulty::{Fault, Faulty, Memory};
use minidc_image::fat::{self, File};
use minidc_image::flash::{self, Phase, Progress, Report};
use minidc_image::host::{Host, Refusal};
use minidc_image::layout::{LINUX, Mbr, SELECTOR, Table};
use minidc_image::sample;
use minidc_image::source::{Image, Packing};
use ring::digest::{SHA256, digest};

const MIB: u64 = 1 << 20;
/// Bytes of the image.
const IMAGE: u64 = sample::BYTES;
/// Bytes of the card.
const CARD: usize = 12 << 20;
const EIO: i32 = 5;
const ENODEV: i32 = 19;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// An image as the build makes it, but small.
fn contents() -> Vec<u8> {
    sample::image(&[]).unwrap()
}

fn pack(contents: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Raw => contents.to_vec(),
        Packing::Xz => {
            let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(0)).unwrap();
            writer.write_all(contents).unwrap();
            writer.finish().unwrap()
        }
        Packing::Zstd => ruzstd::encoding::compress_to_vec(contents, ruzstd::encoding::CompressionLevel::Fastest),
    }
}

/// A directory with an image in it.
struct Bench {
    directory: tempfile::TempDir,
    contents: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            directory: tempfile::tempdir().unwrap(),
            contents: contents(),
        };
        fs::write(bench.path(), &bench.contents).unwrap();
        bench
    }

    fn packed(packing: Packing) -> Self {
        let bench = Self::new();
        fs::write(bench.path(), pack(&bench.contents, packing)).unwrap();
        bench
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("minidc.img")
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn image(&self) -> Image {
        Image::open(&self.path()).unwrap()
    }

    fn onto(&self, card: &mut dyn Target) -> Result<Report, Error> {
        onto(&self.image(), card)
    }
}

fn hex_digest(bytes: &[u8]) -> String {
    digest(&SHA256, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn seed() -> Vec<File> {
    vec![File {
        name: "minidc.toml".into(),
        contents: b"cluster = \"rack1\"\n".repeat(300),
    }]
}

fn onto(image: &Image, card: &mut dyn Target) -> Result<Report, Error> {
    flash::onto(image, card, "card", &seed(), &mut |_| ControlFlow::Continue(()))
}

/// The reason why a card was left half written.
fn cause(result: Result<Report, Error>) -> Error {
    match result {
        Err(Error::HalfWritten { device, cause }) => {
            assert_eq!(device, "card");
            *cause
        }
        other => panic!("expected a half-written card, not {other:?}"),
    }
}

fn looks_good(card: &Memory) -> bool {
    Mbr::parse(&card.0[..512]).is_ok()
}

/// What must hold of a finished card.
fn assert_complete(contents: &[u8], card: &mut Memory) {
    let table = Table::read(card).unwrap();
    assert_eq!(table, sample::table());
    let selector = *table.get(SELECTOR).unwrap();
    assert_eq!(
        fat::read(card, &selector, "minidc.toml").unwrap().unwrap(),
        seed()[0].contents
    );
    assert!(fat::read(card, &selector, "autoboot.txt").unwrap().is_some());
    let start = usize::try_from(selector.start).unwrap();
    let end = usize::try_from(selector.end()).unwrap();
    assert!(card.0[..start] == contents[..start]);
    assert!(card.0[end..contents.len()] == contents[end..]);
}

#[test]
fn raw_xz_and_zstd_images_reach_the_card_byte_for_byte() {
    for packing in [Packing::Raw, Packing::Xz, Packing::Zstd] {
        let bench = Bench::packed(packing);
        assert_eq!((bench.image().packing(), bench.image().bytes()), (packing, IMAGE));
        let mut card = Memory::used(CARD);
        let report = bench.onto(&mut card).unwrap();
        assert_eq!(report.bytes, IMAGE);
        let sum = hex_digest(&bench.contents);
        assert_eq!(report.sha256, sum);
        assert_complete(&bench.contents, &mut card);
        assert!(
            card.0[CARD - 34 * 512..].iter().all(|byte| *byte == 0),
            "an old backup table is left"
        );
    }
}

#[test]
fn an_image_file_as_device_works_and_keeps_its_size() {
    let bench = Bench::packed(Packing::Zstd);
    let path = bench.beside("card.img");
    fs::write(&path, vec![0xff; CARD]).unwrap();
    let host = Host::default();
    let device = flash::prepare(&bench.image(), &host, &path).unwrap();
    assert!(device.to_string().ends_with("card.img (a file, 0.01 GB)"), "{device}");
    flash::flash(
        &bench.image(),
        &host,
        &path,
        &seed(),
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap();
    assert!(!flash::release(&device));
    let mut card = Memory(fs::read(&path).unwrap());
    assert_eq!(card.0.len(), CARD);
    assert_complete(&bench.contents, &mut card);
}

#[test]
fn progress_goes_from_nothing_to_everything_in_each_phase() {
    let bench = Bench::new();
    fs::write(
        bench.beside("minidc.img.sha256"),
        format!("{}  minidc.img\n", bench.onto(&mut Memory::used(CARD)).unwrap().sha256),
    )
    .unwrap();
    let mut seen: Vec<Progress> = Vec::new();
    let report = flash::onto(
        &bench.image(),
        &mut Memory::used(CARD),
        "card",
        &seed(),
        &mut |progress| {
            seen.push(*progress);
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert!(report.checksum_seen);
    let mut phases: Vec<Phase> = seen.iter().map(|progress| progress.phase).collect();
    phases.dedup();
    assert_eq!(phases, [Phase::Checksum, Phase::Write, Phase::Compare, Phase::Finish]);
    for phase in phases {
        let of: Vec<&Progress> = seen.iter().filter(|progress| progress.phase == phase).collect();
        assert!(of.is_sorted_by_key(|progress| progress.done));
        assert_eq!(
            of.last().map(|last| last.done),
            of.last().map(|last| last.total),
            "{phase:?}"
        );
    }
}

#[test]
fn ctrl_c_at_any_moment_leaves_no_card_that_looks_good() {
    let bench = Bench::new();
    let mut moment = 0;
    loop {
        let mut card = Memory::used(CARD);
        let mut left = moment;
        let mut finished = false;
        let result = flash::onto(&bench.image(), &mut card, "card", &seed(), &mut |progress| {
            finished = progress.phase == Phase::Finish && progress.done == progress.total;
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            ControlFlow::Continue(())
        });
        if finished {
            // Asked to stop when all was done: it is done.
            result.unwrap();
            assert_complete(&bench.contents, &mut card);
            break;
        }
        assert!(matches!(cause(result), Error::Stopped));
        assert!(!looks_good(&card), "stopped at moment {moment}");
        moment += 1;
    }
    assert!(moment > 6, "the observer was asked only {moment} times");
}

#[test]
fn a_pulled_card_is_named_as_such_whenever_it_goes() {
    let bench = Bench::new();
    let mut whole = Faulty::new(Memory::used(CARD), Fault::ShortSteps { most: CARD });
    bench.onto(&mut whole).unwrap();
    let all = whole.written();
    for after in [
        0,
        512,
        MIB,
        MIB + 4096,
        5 * MIB,
        IMAGE,
        all - MIB,
        all - MIB / 2,
        all - 4097,
        all - 4096,
        all - 512,
    ] {
        let mut card = Faulty::new(Memory::used(CARD), Fault::Disappear { after });
        let error = cause(bench.onto(&mut card));
        assert!(matches!(error, Error::Gone { .. }), "after {after}: {error:?}");
        assert!(error.to_string().contains("it was pulled out, or it is broken"));
        let mut card = card.into_inner();
        if looks_good(&card) {
            // The table was the last thing that was missing: with it the card is complete, though nobody could be told.
            assert!(after > all - 4096);
            assert_complete(&bench.contents, &mut card);
        }
    }
}

#[test]
fn a_card_that_fails_says_where() {
    let bench = Bench::new();
    for at in [MIB, 3 * MIB + 77, 8 * MIB, IMAGE - 1] {
        for fault in [Fault::FailWrite { at, errno: EIO }, Fault::FailRead { at, errno: EIO }] {
            let mut card = Faulty::new(Memory::used(CARD), fault);
            let error = cause(bench.onto(&mut card));
            let Error::Gone { offset, .. } = error else {
                panic!("{fault:?}: {error:?}");
            };
            assert!(offset <= at && at - offset < flash::PIECE, "{fault:?}: {offset}");
            assert!(!looks_good(&card.into_inner()));
        }
    }
}

#[test]
fn a_full_card_a_locked_card_and_a_gone_reader_are_told_apart() {
    let bench = Bench::new();
    let at = 6 * MIB;
    let run = |errno| {
        let mut card = Faulty::new(Memory::used(CARD), Fault::FailWrite { at, errno });
        let error = cause(bench.onto(&mut card));
        assert!(!looks_good(&card.into_inner()));
        error
    };
    assert!(matches!(run(ENOSPC), Error::Full { .. }));
    assert!(matches!(run(EROFS), Error::WriteProtected { .. }));
    assert!(matches!(run(ENODEV), Error::Gone { .. }));
}

#[test]
fn a_failed_flush_is_a_failure() {
    let bench = Bench::new();
    for after in 0..5 {
        let mut card = Faulty::new(Memory::used(CARD), Fault::FailFlush { after });
        assert!(
            matches!(cause(bench.onto(&mut card)), Error::Gone { attempt: "flush", .. }),
            "{after}"
        );
        assert!(!looks_good(&card.into_inner()), "after {after} flushes");
    }
}

#[test]
fn short_reads_and_writes_are_completed() {
    let bench = Bench::new();
    for most in [65_537, 4096] {
        let mut card = Faulty::new(Memory::used(CARD), Fault::ShortSteps { most });
        bench.onto(&mut card).unwrap();
        assert_complete(&bench.contents, &mut card.into_inner());
    }
    let mut card = Faulty::new(Memory::used(CARD), Fault::TakesNothing { after: 4 * MIB });
    assert!(matches!(cause(bench.onto(&mut card)), Error::Gone { .. }));
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let bench = Bench::new();
    let places = [
        0,
        446,
        510,
        600_000,
        MIB,
        2 * MIB + 5,
        4 * MIB - 1,
        4 * MIB,
        7 * MIB + 300_000,
        IMAGE - 1,
    ];
    for at in places {
        let mut card = Faulty::new(Memory::used(CARD), Fault::FlipBit { at });
        let error = cause(bench.onto(&mut card));
        let Error::Mismatch { start, end } = error else {
            panic!("at {at}: {error:?}");
        };
        assert!((start..end).contains(&at), "at {at}, said {start} to {end}");
        assert!(!looks_good(&card.into_inner()), "at {at}");
    }
}

#[test]
fn a_seed_that_the_card_does_not_keep_is_found() {
    let bench = Bench::new();
    let mut good = Memory::used(CARD);
    bench.onto(&mut good).unwrap();
    let at = good
        .0
        .windows(15)
        .position(|bytes| bytes == b"cluster = \"rack")
        .unwrap() as u64;
    // The byte flips both times it is written: with the image that shows in the comparison, so the card forgets nothing but the seed.
    struct LosesSeed(Memory, u64);
    impl Target for LosesSeed {
        fn bytes(&self) -> u64 {
            self.0.bytes()
        }
        fn write_at(&mut self, offset: u64, buffer: &[u8]) -> std::io::Result<usize> {
            if buffer.len() == 4096 && (offset..offset + 4096).contains(&self.1) {
                return Ok(buffer.len());
            }
            self.0.write_at(offset, buffer)
        }
        fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read_at(offset, buffer)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut card = LosesSeed(Memory::used(CARD), at);
    let error = cause(bench.onto(&mut card));
    assert!(matches!(error, Error::FileMismatch { .. }), "{error:?}");
    assert!(!looks_good(&card.0));
}

#[test]
fn cards_with_less_memory_than_they_claim_are_found_out() {
    let bench = Bench::new();
    for fault in [
        Fault::Wraps { capacity: 4 * MIB },
        Fault::Wraps { capacity: 8 * MIB },
        Fault::Forgets { from: 6 * MIB },
        Fault::Forgets { from: MIB },
    ] {
        let mut card = Faulty::new(Memory::used(CARD), fault);
        let error = cause(bench.onto(&mut card));
        assert!(matches!(error, Error::Mismatch { .. }), "{fault:?}: {error:?}");
        assert!(error.to_string().contains("fake"));
        assert!(!looks_good(&card.into_inner()), "{fault:?}");
    }
}

#[test]
fn a_truncated_image_is_never_a_card() {
    for packing in [Packing::Raw, Packing::Xz, Packing::Zstd] {
        let bench = Bench::packed(packing);
        let whole = fs::read(bench.path()).unwrap();
        let length = whole.len();
        for cut in [1, 3, 13, 100, length / 4, length / 2, length - 700] {
            fs::write(bench.path(), &whole[..length - cut]).unwrap();
            let mut card = Memory::used(CARD);
            let image = match Image::open(&bench.path()) {
                Ok(image) => image,
                Err(error) => {
                    assert!(
                        matches!(error, Error::Truncated { .. }),
                        "{packing:?} -{cut}: {error:?}"
                    );
                    continue;
                }
            };
            let error = cause(onto(&image, &mut card));
            assert!(
                matches!(error, Error::Truncated { .. }),
                "{packing:?} -{cut}: {error:?}"
            );
            assert!(error.to_string().contains("cut short"));
            assert!(!looks_good(&card), "{packing:?} -{cut}");
        }
    }
}

#[test]
fn a_bit_flip_in_a_packed_image_is_found() {
    for packing in [Packing::Xz, Packing::Zstd] {
        let bench = Bench::packed(packing);
        let whole = fs::read(bench.path()).unwrap();
        let mut found = 0;
        for step in 0..24 {
            let at = 8 + (whole.len() - 9) * step / 23;
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            fs::write(bench.path(), &flipped).unwrap();
            let Ok(image) = Image::open(&bench.path()) else {
                found += 1;
                continue;
            };
            let mut card = Memory::used(CARD);
            match onto(&image, &mut card) {
                // Some bits of a header change nothing of what comes out.
                Ok(_) => assert_complete(&bench.contents, &mut card),
                Err(error) => {
                    found += 1;
                    assert!(!looks_good(&card), "{packing:?} at {at}: {error:?}");
                }
            }
        }
        assert!(found >= 22, "{packing:?}: only {found} of 24");
    }
}

#[test]
fn a_checksum_beside_the_image_is_checked_before_anything_is_written() {
    let bench = Bench::packed(Packing::Zstd);
    let sum = hex_digest(&fs::read(bench.path()).unwrap());
    let wrong = sum.replace(['0', '1', '2'], "f");
    let untouched = Memory::used(CARD).0;
    for (file, text) in [
        ("SHA256SUMS", format!("{wrong}  minidc.img\n")),
        ("minidc.img.sha256", format!("{wrong}  minidc.img\n")),
    ] {
        fs::write(bench.beside(file), text).unwrap();
        let mut card = Memory::used(CARD);
        let error = bench.onto(&mut card).unwrap_err();
        assert!(matches!(error, Error::Checksum { .. }), "{error:?}");
        assert!(error.to_string().contains(file));
        assert!(card.0 == untouched);
        fs::remove_file(bench.beside(file)).unwrap();
    }
    fs::write(bench.beside("minidc.img.sha256"), "something else\n").unwrap();
    assert!(matches!(
        bench.onto(&mut Memory::used(CARD)),
        Err(Error::ChecksumFile { .. })
    ));
    fs::write(bench.beside("minidc.img.sha256"), format!("{sum}  minidc.img\n")).unwrap();
    assert!(bench.onto(&mut Memory::used(CARD)).unwrap().checksum_seen);
    fs::remove_file(bench.beside("minidc.img.sha256")).unwrap();
    fs::write(bench.beside("SHA256SUMS"), format!("{wrong}  other.img\n")).unwrap();
    assert!(!bench.onto(&mut Memory::used(CARD)).unwrap().checksum_seen);
}

#[test]
fn a_too_small_card_is_refused_untouched() {
    let bench = Bench::new();
    let mut card = Memory::used(8 << 20);
    let before = card.0.clone();
    let error = bench.onto(&mut card).unwrap_err();
    assert!(matches!(&error, Error::Refused { reasons, .. } if matches!(reasons[0], Refusal::TooSmall { .. })));
    assert!(card.0 == before);
    for (bytes, word) in [(0, "truncate -s"), (8 << 20, "the image needs")] {
        let path = bench.beside("small.img");
        fs::write(&path, vec![0; bytes]).unwrap();
        let error = flash::prepare(&bench.image(), &Host::default(), &path).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn an_image_longer_than_its_table_fills_the_card_and_says_so() {
    let bench = Bench::new();
    let mut longer = bench.contents.clone();
    longer.extend(vec![1; 4 << 20]);
    fs::write(bench.path(), longer).unwrap();
    let mut card = Memory::used(CARD);
    assert!(matches!(cause(bench.onto(&mut card)), Error::Full { offset } if offset == CARD as u64));
    assert!(!looks_good(&card));
}

#[test]
fn targets_that_are_no_cards_are_refused() {
    let bench = Bench::new();
    let refused = |path: &Path| {
        let error = flash::flash(&bench.image(), &Host::default(), path, &seed(), &mut |_| {
            panic!("work began on {}", path.display())
        })
        .unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        error.to_string()
    };
    assert!(refused(bench.directory.path()).contains("a directory"));
    assert!(refused(Path::new("/dev/null")).contains("a character device"));
    assert!(refused(&bench.path()).contains("it is the image itself"));
    let locked = bench.beside("locked.img");
    fs::write(&locked, vec![0; CARD]).unwrap();
    let mut permissions = fs::metadata(&locked).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&locked, permissions).unwrap();
    assert!(refused(&locked).contains("read-only"));
}

#[test]
fn files_that_are_no_images_of_ours_say_what_they_are() {
    let bench = Bench::new();
    let mut other = bench.contents.clone();
    other[446 + 4] = 0xee;
    let mut early = bench.contents.clone();
    early[446 + 8..446 + 12].copy_from_slice(&1_u32.to_le_bytes());
    for (contents, word) in [
        (&b""[..], "it is empty"),
        (&[0x1f, 0x8b, 8, 0, 0, 0, 0][..], "gzip"),
        (&b"PK\x03\x04...."[..], "zip archive"),
        (&[0; 2048][..], "no partition table"),
        (&other[..], "GPT"),
        (&early[..], "4096"),
    ] {
        fs::write(bench.path(), contents).unwrap();
        let error = Image::open(&bench.path()).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    // An image of something else, with a table that is not ours, is not called good either.
    let mut foreign = bench.contents.clone();
    foreign[446 + 4] = LINUX;
    fs::write(bench.path(), foreign).unwrap();
    let mut card = Memory::used(CARD);
    assert!(matches!(cause(bench.onto(&mut card)), Error::Layout(_)));
    assert!(!looks_good(&card));
}

#[test]
fn errors_are_one_sentence_with_cause_and_advice() {
    let bench = Bench::new();
    let mut card = Faulty::new(Memory::used(CARD), Fault::Disappear { after: 5 * MIB });
    let error = bench.onto(&mut card).unwrap_err();
    let text = error.explain();
    assert!(
        text.starts_with("the card in card is half written and left without a partition table: flash it again: write to the card at byte"),
        "{text}"
    );
}
