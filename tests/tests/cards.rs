//! `minidc flash` where it needs root: on a block device of the kernel, and called through sudo.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use minidc_image::{cards, device::DeviceFile, sample};
use minidc_tests::{minidc, run};

/// A directory with an image in it.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        fs::write(bench.path("minidc.img"), sample::image(&[]).unwrap()).unwrap();
        fs::set_permissions(bench.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn card(&self) -> PathBuf {
        let path = self.path("card.img");
        fs::write(&path, vec![0xa5; 16 << 20]).unwrap();
        path
    }

    fn flash(&self, device: &Path) -> Command {
        let mut command = Command::new(minidc().unwrap());
        command
            .args([
                "flash",
                "minidc.img",
                "--cluster",
                "rack1",
                "--role",
                "server",
                "--name",
                "pi-1",
                "--yes",
            ])
            .arg("--device")
            .arg(device)
            .current_dir(self.0.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env_remove("SUDO_UID")
            .stdin(Stdio::null());
        command
    }
}

/// A block device that stands upon a file.
struct Loop(String);

impl Loop {
    fn upon(file: &Path) -> Self {
        let printed = run(Command::new("losetup").args(["--find", "--show"]).arg(file)).unwrap();
        Self(printed.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_block_device_is_flashed_unless_it_is_in_use() {
    let bench = Bench::new();
    let card = bench.card();
    let device = Loop::upon(&card);
    let path = Path::new(&device.0);
    let said = run(&mut bench.flash(path)).unwrap();
    assert!(
        said.contains(&format!("Erase everything on {} (unknown model, 0.01 GB)", device.0)),
        "{said}"
    );
    assert!(said.contains("pi-1 is ready"), "{said}");
    let seed = cards::present(&mut DeviceFile::open_to_read(path).unwrap()).unwrap();
    assert_eq!(seed.node, "pi-1");
    // the file below it is refused, and so is a device that is mounted
    let reason = refusal(&bench.flash(&card).output().unwrap());
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(reason.contains(&format!("the loop device {name} uses it")), "{reason}");
    run(Command::new("mkfs.ext4").args(["-q", "-F", &device.0])).unwrap();
    let place = bench.path("mounted");
    fs::create_dir(&place).unwrap();
    run(Command::new("mount").arg(&device.0).arg(&place)).unwrap();
    let output = bench.flash(path).output().unwrap();
    run(Command::new("umount").arg(&place)).unwrap();
    let reason = refusal(&output);
    assert!(
        reason.contains(&format!("{name} is mounted at {}", place.display())),
        "{reason}"
    );
}

#[test]
fn a_disk_that_this_computer_runs_from_is_refused() {
    // in a container the root may be no device: then any that is mounted will do
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let disk = mounts
        .lines()
        .filter_map(|line| line.split(' ').next().map(PathBuf::from))
        .find(|source| source.starts_with("/dev") && source.exists())
        .unwrap();
    let bench = Bench::new();
    let reason = refusal(&bench.flash(&disk).output().unwrap());
    assert!(
        ["this computer runs from it", "is mounted at"]
            .iter()
            .any(|word| reason.contains(word)),
        "{reason}"
    );
}

#[test]
fn with_sudo_everything_belongs_to_the_person_who_called_it() {
    let bench = Bench::new();
    let person = 54_321;
    let card = bench.card();
    fs::create_dir(bench.path("config")).unwrap();
    chown(bench.path("config"), Some(person), Some(person)).unwrap();
    let mut command = bench.flash(&card);
    run(command
        .env("SUDO_UID", person.to_string())
        .env("SUDO_GID", person.to_string()))
    .unwrap();
    let mut open = vec![bench.path("config")];
    let mut files = 0;
    while let Some(path) = open.pop() {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (person, person), "{}", path.display());
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files += 1;
        }
    }
    assert_eq!(files, 6, "four of the identity, the kubeconfig, the list of cards");
}
