//! Files and parts of files that are made from what is in the code: tests look that they are as they would be made today, and
//! make them with `GENERATE=1 cargo test -p minidc-hardware`.

use std::{env, fs, path::PathBuf};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Asserts that the file `name` of this crate is `text`.
pub(crate) fn file(name: &str, text: &str) {
    let path = path(name);
    if env::var_os("GENERATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let present = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        present == text,
        "{name} is not what the code makes: GENERATE=1 cargo test -p minidc-hardware"
    );
}

/// Asserts that README.md has `text` between the comment that begins with `name` and the next one that says `end`.
pub(crate) fn part_of_readme(name: &str, text: &str) {
    let readme = fs::read_to_string(path("README.md")).unwrap();
    let begin = readme.find(&format!("<!-- {name}:")).unwrap();
    let begin = begin + readme[begin..].find('\n').unwrap() + 1;
    let end = begin + readme[begin..].find("<!-- end -->").unwrap();
    file("README.md", &format!("{}{text}{}", &readme[..begin], &readme[end..]));
}
