//! As much of ELF as it takes to know what a program needs: 64 bit, little endian.

/// The number of arm64.
pub(crate) const AARCH64: u16 = 183;

pub(crate) struct Elf {
    pub(crate) machine: u16,
    /// The dynamic loader it names.
    pub(crate) interpreter: Option<String>,
    /// Names of libraries.
    pub(crate) needed: Vec<String>,
    /// Directories that it looks into first.
    pub(crate) search: Vec<String>,
}

/// `None` if it is no such file.
pub(crate) fn parse(bytes: &[u8]) -> Option<Elf> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let mut elf = Elf {
        machine: u16::from_le_bytes(bytes.get(18..20)?.try_into().ok()?),
        interpreter: None,
        needed: Vec::new(),
        search: Vec::new(),
    };
    let headers = number(bytes, 32)?;
    let count = usize::from(u16::from_le_bytes(bytes.get(56..58)?.try_into().ok()?));
    let segments: Vec<Segment> = (0..count)
        .filter_map(|index| Segment::read(bytes, headers + 56 * index))
        .collect();
    for segment in &segments {
        match segment.kind {
            // PT_INTERP
            3 => elf.interpreter = text(bytes, segment.offset),
            // PT_DYNAMIC
            2 => dynamic(bytes, segment, &segments, &mut elf),
            _ => {}
        }
    }
    Some(elf)
}

fn dynamic(bytes: &[u8], segment: &Segment, segments: &[Segment], elf: &mut Elf) {
    let entries: Vec<(usize, usize)> = (0..segment.size / 16)
        .map_while(|index| {
            let at = segment.offset + 16 * index;
            Some((number(bytes, at)?, number(bytes, at + 8)?))
        })
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    // DT_STRTAB, an address: the segment that is loaded there tells where it is in the file.
    let strings = entries.iter().find(|(tag, _)| *tag == 5).and_then(|(_, address)| {
        let loaded = segments
            .iter()
            .find(|other| other.kind == 1 && (other.address..other.address + other.size).contains(address))?;
        Some(address - loaded.address + loaded.offset)
    });
    for (tag, value) in entries {
        let string = || text(bytes, strings? + value);
        match tag {
            // DT_NEEDED
            1 => elf.needed.extend(string()),
            // DT_RPATH, DT_RUNPATH
            15 | 29 => elf
                .search
                .extend(string().iter().flat_map(|list| list.split(':')).map(str::to_owned)),
            _ => {}
        }
    }
}

struct Segment {
    kind: u32,
    offset: usize,
    address: usize,
    size: usize,
}

impl Segment {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        Some(Self {
            kind: u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?),
            offset: number(bytes, at + 8)?,
            address: number(bytes, at + 16)?,
            size: number(bytes, at + 32)?,
        })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)).ok()
}

fn text(bytes: &[u8], at: usize) -> Option<String> {
    let bytes = bytes.get(at..)?;
    let end = bytes.iter().position(|&byte| byte == 0)?;
    String::from_utf8(bytes[..end].to_vec()).ok()
}
