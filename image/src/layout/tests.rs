use super::*;
use crate::device::faulty::Memory;
use crate::sample;

const MIB: u64 = 1 << 20;

fn sizes() -> Sizes {
    Sizes {
        selector: 64 * MIB,
        boot: 128 * MIB,
        root: 700 * MIB,
        data: 10 * MIB,
    }
}

#[test]
fn a_planned_table_is_ours_aligned_and_without_overlap() {
    let table = Table::plan(7, sizes()).unwrap();
    assert_eq!(table.check(table.end()), Ok(()));
    assert!(
        table
            .partitions
            .iter()
            .all(|partition| partition.start % ALIGNMENT == 0)
    );
    assert_eq!(table.get(SELECTOR).unwrap().start, ALIGNMENT);
    assert_eq!(table.get(DATA).unwrap().bytes, 12 * MIB);
    assert_eq!(table.get(4).unwrap().end(), table.end());
}

#[test]
fn sizes_that_cannot_be_say_so() {
    let tiny = Sizes { boot: MIB, ..sizes() };
    assert!(matches!(Table::plan(1, tiny), Err(LayoutError::Sizes(_))));
    let huge = Sizes {
        data: u64::MAX,
        ..sizes()
    };
    assert!(matches!(Table::plan(1, huge), Err(LayoutError::Sizes(_))));
    let large = Sizes {
        data: 3 << 40,
        ..sizes()
    };
    assert!(matches!(Table::plan(1, large), Err(LayoutError::Sizes(_))));
}

#[test]
fn a_written_table_is_read_as_it_was() {
    let mut card = Memory::used(10 << 20);
    write(&sample::table(), &mut card).unwrap();
    assert_eq!(Table::read(&mut card).unwrap(), sample::table());
    assert_eq!(sample::table().check(10 * MIB), Ok(()));
    // The kernel reads a link's partition relative to the link itself, and the next link relative to the extended partition.
    let entry = |at: usize| u32::from_le_bytes(card.0[at..at + 4].try_into().unwrap());
    let link = 4 << 20;
    assert_eq!(entry(link + 446 + 8), 2048);
    assert_eq!(u64::from(entry(link + 462 + 8)) * SECTOR, 2 * MIB);
}

#[test]
fn the_data_partition_grows_to_the_end_of_the_card_and_never_shrinks() {
    let table = Table::plan(7, sizes()).unwrap();
    let card = 32_010_928_128;
    let grown = table.grown(card);
    assert_eq!(grown.check(card), Ok(()));
    assert!(card - grown.end() < ALIGNMENT);
    assert_eq!(grown.partitions[..3], table.partitions[..3]);
    assert_eq!(grown.get(6), table.get(6));
    assert_eq!(table.grown(0), table);
    assert_eq!(grown.grown(card), grown);
    assert!(table.grown(5 << 40).end() <= MOST);
}

#[test]
fn foreign_and_damaged_tables_say_everything_that_is_wrong() {
    assert_eq!(Mbr::parse(&[0; 512]), Err(LayoutError::NoTable));
    let mut card = Memory(vec![0; 10 << 20]);
    write(&sample::table(), &mut card).unwrap();
    let mut gpt = card.0[..512].to_vec();
    gpt[446 + 4] = 0xee;
    assert_eq!(Mbr::parse(&gpt), Err(LayoutError::Gpt));

    let mut wrong = sample::table();
    wrong.partitions[0].kind = LINUX;
    wrong.partitions[1].bytes = 2 * MIB;
    wrong.partitions[6].bytes = 20 * MIB;
    wrong.partitions.remove(5);
    let Err(LayoutError::Unexpected(said)) = wrong.check(10 * MIB) else {
        panic!("a wrong table passed");
    };
    for word in [
        "partition 1 has type 0x83",
        "overlap",
        "partition 6 is missing",
        "ends behind",
        "is not inside",
    ] {
        assert!(said.iter().any(|line| line.contains(word)), "{word}: {said:?}");
    }
}

#[test]
fn a_broken_or_circular_chain_ends_with_an_error() {
    let mut card = Memory(vec![0; 10 << 20]);
    write(&sample::table(), &mut card).unwrap();
    let mut broken = Memory(card.0.clone());
    broken.0[(6 << 20) + 510] = 0;
    let error = Table::read(&mut broken).unwrap_err();
    assert!(matches!(error, crate::Error::Layout(LayoutError::BrokenChain { .. })));
    // The second link points at itself.
    let at = (6 << 20) + 462;
    card.0[at + 4] = EXTENDED;
    card.0[at + 8..at + 12].copy_from_slice(&4096_u32.to_le_bytes());
    assert!(Table::read(&mut card).is_err());
}

#[test]
fn any_first_sector_is_read_without_a_panic() {
    let mut seed = 1_u64;
    for _ in 0..2000 {
        let mut card = Memory(vec![0; 64 << 10]);
        for byte in &mut card.0[446..1024] {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = u8::try_from(seed >> 56).unwrap();
        }
        card.0[510..512].copy_from_slice(&[0x55, 0xaa]);
        if let Ok(table) = Table::read(&mut card) {
            let _ = (table.check(64 << 10), table.grown(1 << 30));
        }
    }
}

#[test]
fn the_selector_boots_one_slot_and_tries_the_other() {
    assert_eq!(
        autoboot(Slot::A),
        "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"
    );
    assert!(autoboot(Slot::B).contains("boot_partition=3\n[tryboot]\nboot_partition=2"));
    assert!(autoboot(Slot::B).len() <= 512);
    assert_eq!((Slot::B.root(), Slot::A.other()), (6, Slot::B));
}

/// A card in memory with the small table, `mib` large.
fn card(mib: usize) -> Memory {
    let mut card = Memory::used(mib << 20);
    write(&sample::table(), &mut card).unwrap();
    card
}

#[test]
fn the_data_partition_grows_to_the_end_once_and_nothing_else_changes() {
    let mut card = card(42);
    let before = card.0.clone();
    let growth = grow(&mut card).unwrap();
    assert!(growth.is_new());
    assert_eq!(
        (growth.before, growth.data.start, growth.data.end()),
        (MIB, 9 * MIB, 40 * MIB)
    );
    let table = Table::read(&mut card).unwrap();
    assert_eq!(table.check(42 * MIB), Ok(()));
    for number in [1, 2, 3, 5, 6] {
        assert_eq!(table.get(number), sample::table().get(number));
    }
    let table: Vec<u64> = sample::table()
        .sectors()
        .iter()
        .map(|(start, _)| start / SECTOR)
        .collect();
    for (sector, (before, after)) in before.chunks(512).zip(card.0.chunks(512)).enumerate() {
        assert!(table.contains(&(sector as u64)) || before == after, "sector {sector}");
    }
    let again = card.0.clone();
    assert!(!grow(&mut card).unwrap().is_new());
    assert!(again == card.0, "a second time nothing is written");
}

#[test]
fn a_growth_that_is_cut_short_anywhere_keeps_the_partitions_and_is_completed_by_the_next_start() {
    use crate::device::faulty::{Fault, Faulty};
    let fresh = card(42).0;
    let whole = {
        let mut card = Faulty::new(Memory(fresh.clone()), Fault::Disappear { after: u64::MAX });
        grow(&mut card).unwrap();
        card.written()
    };
    let mut cuts = 0;
    for after in (0..whole).step_by(512) {
        let mut cut = Faulty::new(Memory(fresh.clone()), Fault::Disappear { after });
        assert!(grow(&mut cut).is_err(), "after {after} bytes");
        let mut card = cut.into_inner();
        let table = Table::read(&mut card).unwrap();
        for old in sample::table().partitions.iter().filter(|old| old.number != 4) {
            let new = table.get(old.number).unwrap();
            assert!(
                new.start == old.start && new.bytes >= old.bytes,
                "{new} after {after} bytes"
            );
        }
        assert_eq!(grow(&mut card).unwrap().data.end(), 40 * MIB, "after {after} bytes");
        assert_eq!(Table::read(&mut card).unwrap(), sample::table().grown(42 * MIB));
        cuts += 1;
    }
    assert!(cuts >= 3 * 8, "three blocks are written, not {cuts} sectors");
}

#[test]
fn a_table_of_somebody_else_is_not_grown() {
    let mut short = sample::table();
    short.partitions.pop();
    let mut other = card(42);
    write(&short, &mut other).unwrap();
    let before = other.0.clone();
    assert!(matches!(grow(&mut other), Err(crate::Error::Layout(_))));
    assert!(before == other.0);
    let mut cut_off = Memory(card(42).0[..8 << 20].to_vec());
    assert!(matches!(grow(&mut cut_off), Err(crate::Error::Layout(_))));
}
