//! In which order free numbers are tried.
//!
//! Who asks for a certain address or port mostly asks for a low one. So the low part of a range is left for them, and others
//! are first chosen from the rest (Kubernetes' KEP-3070 for addresses, KEP-3668 for node ports).

/// All numbers below `count`, each once: first those from `reserved` on, beginning anywhere, then those below.
pub(super) fn order(count: u64, reserved: u64, random: u64) -> impl Iterator<Item = u64> {
    let reserved = reserved.min(count);
    turned(reserved, count - reserved, random).chain(turned(0, reserved, random))
}

/// `length` numbers from `first` on, beginning in the middle.
fn turned(first: u64, length: u64, random: u64) -> impl Iterator<Item = u64> {
    let start = random.checked_rem(length).unwrap_or(0);
    (start..length).chain(0..start).map(move |number| first + number)
}

/// How many of the first numbers of a range are left for those who ask for them: one in `step`, but at least 16 and at
/// most `most`; none of a range of 16 or less.
pub(super) fn reserved(size: u128, step: u128, most: u64) -> u64 {
    const LEAST: u64 = 16;
    if size <= u128::from(LEAST) {
        return 0;
    }
    u64::try_from(size / step).unwrap_or(most).clamp(LEAST, most)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_number_comes_once_and_the_reserved_ones_last() {
        for (count, low, random) in [(10, 3, 0), (10, 3, 5), (10, 0, 99), (5, 5, 7), (1, 0, 3), (0, 0, 1)] {
            let all: Vec<u64> = order(count, low, random).collect();
            let distinct: BTreeSet<u64> = all.iter().copied().collect();
            assert_eq!((all.len() as u64, distinct.len() as u64), (count, count));
            let upper = usize::try_from(count - low).unwrap();
            assert!(all[..upper].iter().all(|number| *number >= low));
        }
    }

    #[test]
    fn as_much_is_reserved_as_in_kubernetes() {
        for (size, expected) in [
            (8, 0),
            (16, 0),
            (32, 16),
            (256, 16),
            (1024, 64),
            (4096, 256),
            (65_536, 256),
        ] {
            assert_eq!(reserved(size, 16, 256), expected, "{size}");
        }
        assert_eq!(reserved(2768, 32, 128), 86);
    }
}
