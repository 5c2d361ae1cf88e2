//! A tree of files, of the squashfs or of the initrd.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) mode: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) bytes: u64,
    pub(crate) directory: bool,
    pub(crate) link: bool,
    /// Where a link leads, as it is written.
    target: Option<String>,
}

/// Paths have no slash at either end; the top is the empty one.
pub(crate) struct Tree {
    entries: BTreeMap<String, Entry>,
    contents: Contents,
}

enum Contents {
    Directory(PathBuf),
    Memory(BTreeMap<String, Vec<u8>>),
}

impl Tree {
    /// From `unsquashfs -lln` and the directory with what it extracted.
    pub(crate) fn from_listing(listing: &str, extracted: &Path) -> Self {
        let mut entries = BTreeMap::new();
        for line in listing.lines().filter(|line| line.contains("squashfs-root")) {
            // "drwxr-xr-x 0/0    27 2025-01-01 00:00 squashfs-root/etc"
            let (head, path) = line.split_once("squashfs-root").unwrap();
            let (path, target) = match path.split_once(" -> ") {
                Some((path, target)) => (path, Some(target.to_owned())),
                None => (path, None),
            };
            let fields: Vec<&str> = head.split_whitespace().collect();
            let (user, group) = fields[1].split_once('/').unwrap();
            let entry = Entry {
                mode: mode(fields[0]),
                user: user.parse().unwrap(),
                group: group.parse().unwrap(),
                bytes: fields[2].parse().unwrap_or(0),
                directory: line.starts_with('d'),
                link: line.starts_with('l'),
                target,
            };
            entries.insert(path.trim_start_matches('/').to_owned(), entry);
        }
        assert!(entries.len() > 2000, "the listing has {} lines", entries.len());
        Self {
            entries,
            contents: Contents::Directory(extracted.to_owned()),
        }
    }

    /// From an archive in cpio's newc format.
    pub(crate) fn from_cpio(archive: &[u8]) -> Self {
        let mut entries = BTreeMap::new();
        let mut contents = BTreeMap::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive[at..at + 6], b"070701", "no header at {at}");
            let field = |number: usize| {
                let start = at + 6 + 8 * number;
                let digits = std::str::from_utf8(&archive[start..start + 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(archive[at + 110..at + 110 + name_size - 1].to_vec()).unwrap();
            if name == "TRAILER!!!" {
                break;
            }
            let start = (at + 110 + name_size).next_multiple_of(4);
            let data = archive[start..start + size].to_vec();
            let kind = mode & 0o170_000;
            let entry = Entry {
                mode: mode & 0o7777,
                user: field(2),
                group: field(3),
                bytes: size as u64,
                directory: kind == 0o040_000,
                link: kind == 0o120_000,
                target: (kind == 0o120_000).then(|| String::from_utf8(data.clone()).unwrap()),
            };
            contents.insert(name.clone(), data);
            entries.insert(name, entry);
            at = (start + size).next_multiple_of(4);
        }
        Self {
            entries,
            contents: Contents::Memory(contents),
        }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Names in a directory.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let start = format!("{directory}/");
        self.entries
            .keys()
            .filter_map(|path| path.strip_prefix(&start))
            .filter(|rest| !rest.contains('/'))
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.resolve(path).is_some()
    }

    pub(crate) fn is_dir(&self, path: &str) -> bool {
        self.resolve(path).is_some_and(|(_, entry)| entry.directory)
    }

    pub(crate) fn is_file(&self, path: &str) -> bool {
        self.resolve(path).is_some_and(|(_, entry)| !entry.directory)
    }

    pub(crate) fn is_executable(&self, path: &str) -> bool {
        self.resolve(path)
            .is_some_and(|(_, entry)| !entry.directory && entry.mode & 0o111 != 0)
    }

    /// What a link says.
    pub(crate) fn link(&self, path: &str) -> Option<String> {
        self.entries.get(path)?.target.clone()
    }

    /// Contents of a file, over links.
    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        let (path, _) = self.resolve(path).unwrap_or_else(|| panic!("{path} is missing"));
        match &self.contents {
            Contents::Directory(directory) => fs::read(directory.join(&path)).unwrap(),
            Contents::Memory(contents) => contents[&path].clone(),
        }
    }

    pub(crate) fn text(&self, path: &str) -> String {
        String::from_utf8(self.bytes(path)).unwrap()
    }

    /// The path that a link leads to in the end, with a slash before it, whether it exists or not.
    pub(crate) fn destination(&self, path: &str) -> String {
        format!("/{}", self.walk(path))
    }

    fn resolve(&self, path: &str) -> Option<(String, &Entry)> {
        let path = self.walk(path);
        let entry = self.entries.get(&path)?;
        Some((path, entry))
    }

    /// Follows links in all parts of a path, as the kernel does with this tree as the root.
    fn walk(&self, path: &str) -> String {
        let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(part),
            }
            if let Some(target) = self
                .entries
                .get(&done.join("/"))
                .and_then(|entry| entry.target.as_ref())
            {
                links += 1;
                assert!(links < 40, "{path} goes in circles");
                done.pop();
                if target.starts_with('/') {
                    done.clear();
                }
                left.extend(target.split('/').rev().map(str::to_owned));
            }
        }
        done.join("/")
    }
}

/// "rwxr-sr-x" and its like, with the letter of the kind before it.
fn mode(letters: &str) -> u32 {
    let mut mode = 0;
    for (index, letter) in letters.chars().skip(1).enumerate() {
        let bit = 0o400 >> index;
        if matches!(letter, 'r' | 'w' | 'x' | 's' | 't') {
            mode |= bit;
        }
        match (index, letter) {
            (2, 's' | 'S') => mode |= 0o4000,
            (5, 's' | 'S') => mode |= 0o2000,
            (8, 't' | 'T') => mode |= 0o1000,
            _ => {}
        }
    }
    mode
}
