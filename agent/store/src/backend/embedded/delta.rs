//! What is new in a value, given the one before: copies from the old bytes, and inserted bytes between them.
//!
//! Status updates change a few dozen bytes of an object of some kilobytes, often in several places. The search is that of LZ4
//! with the old value as the dictionary: a table finds where eight bytes of the new value stood in the old one.

use super::varint::{Reader, put_varint};

/// Shortest copy: shorter ones cost as much as they save.
const WINDOW: usize = 8;
const TABLE_BITS: u32 = 11;

/// Appends to `output` the steps that make `new` from `old`: pairs of (length and bytes to insert; offset and length to copy).
pub(super) fn encode(old: &[u8], new: &[u8], output: &mut Vec<u8>) {
    let table = Table::of(old);
    let mut inserted = 0;
    let mut at = 0;
    // Where the old value would go on if nothing were inserted or removed.
    let mut follow = 0;
    while at + WINDOW <= new.len() {
        let straight = common(old.get(follow..).unwrap_or_default(), &new[at..]);
        let (mut from, mut length) = (follow, straight);
        if straight < WINDOW
            && let Some(candidate) = table.find(new, at)
        {
            (from, length) = (candidate, common(&old[candidate..], &new[at..]));
        }
        if length < WINDOW {
            at += 1;
            follow += 1;
            continue;
        }
        step(output, &new[inserted..at], from, length);
        at += length;
        inserted = at;
        follow = from + length;
    }
    if inserted < new.len() {
        step(output, &new[inserted..], 0, 0);
    }
}

/// Makes the new value; `None` when the steps do not fit the old one.
pub(super) fn decode(old: &[u8], steps: &[u8]) -> Option<Vec<u8>> {
    let mut new = Vec::with_capacity(old.len() + steps.len());
    let mut reader = Reader::new(steps);
    while !reader.is_empty() {
        new.extend_from_slice(reader.bytes()?);
        let from = usize::try_from(reader.varint()?).ok()?;
        let length = usize::try_from(reader.varint()?).ok()?;
        new.extend_from_slice(old.get(from..from.checked_add(length)?)?);
    }
    Some(new)
}

fn step(output: &mut Vec<u8>, insert: &[u8], from: usize, length: usize) {
    put_varint(output, insert.len() as u64);
    output.extend_from_slice(insert);
    put_varint(output, from as u64);
    put_varint(output, length as u64);
}

fn common(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// The last place in the old value of each hash of eight bytes.
struct Table(Vec<u32>);

impl Table {
    fn of(old: &[u8]) -> Self {
        let mut places = vec![u32::MAX; 1 << TABLE_BITS];
        for (at, window) in old.windows(WINDOW).enumerate() {
            if let (Some(slot), Ok(at)) = (places.get_mut(hash(window)), u32::try_from(at)) {
                *slot = at;
            }
        }
        Self(places)
    }

    fn find(&self, new: &[u8], at: usize) -> Option<usize> {
        let place = *self.0.get(hash(new.get(at..at + WINDOW)?))?;
        (place != u32::MAX).then_some(place as usize)
    }
}

fn hash(window: &[u8]) -> usize {
    let mut bytes = [0; WINDOW];
    bytes.copy_from_slice(window);
    // Fibonacci hashing: 2^64 divided by the golden ratio.
    (u64::from_le_bytes(bytes).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - TABLE_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(old: &[u8], new: &[u8]) -> Vec<u8> {
        let mut steps = Vec::new();
        encode(old, new, &mut steps);
        assert_eq!(decode(old, &steps).as_deref(), Some(new));
        steps
    }

    #[test]
    fn a_few_changed_bytes_in_two_places_take_a_few_bytes() {
        let old: Vec<u8> = (0..3000_u32)
            .flat_map(|number| number.to_string().into_bytes())
            .collect();
        let mut new = old.clone();
        new.splice(100..104, *b"true");
        new.splice(9000..9001, *b"False, since a minute");
        let steps = steps(&old, &new);
        assert!(steps.len() < 60, "{} bytes", steps.len());
    }

    #[test]
    fn any_two_values_survive_the_round_trip() {
        let mut random = 7_u64;
        let mut next = move |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..2000 {
            let old: Vec<u8> = (0..next(200)).map(|_| b'a' + next(4) as u8).collect();
            let mut new = old.clone();
            for _ in 0..next(4) {
                let at = next(new.len() as u64 + 1) as usize;
                let end = (at + next(30) as usize).min(new.len());
                let insert: Vec<u8> = (0..next(30)).map(|_| b'a' + next(4) as u8).collect();
                new.splice(at..end, insert);
            }
            steps(&old, &new);
        }
        steps(b"", b"");
        steps(b"", b"new");
        steps(b"old", b"");
    }

    #[test]
    fn steps_that_do_not_fit_are_refused() {
        let mut steps = Vec::new();
        step(&mut steps, b"x", 3, 4);
        assert_eq!(decode(b"short", &steps), None);
        assert_eq!(decode(b"long enough", &steps[..3]), None);
    }
}
