//! The Debian package without a machine to install it on: the kernel's command line of Raspberry Pi OS, and what the package
//! says to systemd and dpkg. What it does when installed is shown by the test `ansible`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use minidc_tests::{run, workspace};

/// cmdline.txt as the first boot of Raspberry Pi OS leaves it: bookworm, trixie, one with a serial console and a trailing
/// blank, one of an old image.
const SAMPLES: [&str; 4] = [
    "console=serial0,115200 console=tty1 root=PARTUUID=7788c428-02 rootfstype=ext4 fsck.repair=yes rootwait quiet splash \
     plymouth.ignore-serial-consoles cfg80211.ieee80211_regdom=DE\n",
    "console=serial0,115200 console=tty1 root=PARTUUID=9ea6cd54-02 rootfstype=ext4 fsck.repair=yes rootwait resize \
     cfg80211.ieee80211_regdom=GB ds=nocloud;i=rpi-imager-1760000000000\n",
    "console=serial0,115200 root=PARTUUID=738a4d67-02 rootfstype=ext4 rootwait\n",
    "dwc_otg.lpm_enable=0 console=tty1 root=/dev/mmcblk0p2 rootfstype=ext4 elevator=deadline rootwait",
];
/// Any program of this machine; a small one is packed in no time.
const PROGRAM: &str = "/bin/true";
const WORDS: &str = " cgroup_enable=memory cgroup_memory=1";

/// A Raspberry Pi as far as the script sees it.
struct Board {
    root: tempfile::TempDir,
    file: PathBuf,
}

impl Board {
    /// `file` below `boot/` holds the command line; the running kernel has no memory controller.
    fn new(file: &str, content: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["boot/firmware", "proc", "cgroup", "run"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("cgroup/cgroup.controllers"), "cpuset cpu io pids\n").unwrap();
        let file = root.path().join("boot").join(file);
        fs::write(&file, content).unwrap();
        Self { root, file }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn script(&self, action: &str) -> String {
        run(Command::new("sh")
            .arg(workspace().join("image/deb/files/usr/lib/minidc/cgroup-memory"))
            .arg(action)
            .env("MINIDC_BOOT", self.path("boot"))
            .env("MINIDC_PROC", self.path("proc"))
            .env("MINIDC_CGROUP", self.path("cgroup"))
            .env("MINIDC_RUN", self.path("run"))
            .env("MINIDC_NOTE", self.path("var/cgroup-memory")))
        .unwrap()
    }

    fn line(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    /// Files beside the command line, but itself.
    fn beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.file.parent().unwrap()).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("cmdline.txt.")).collect()
    }
}

#[test]
fn memory_limits_are_switched_on_once_and_off_again_without_a_trace() {
    for sample in SAMPLES {
        let board = Board::new("firmware/cmdline.txt", sample);
        let said = board.script("enable");
        assert!(said.starts_with("changed\n") && said.contains("reboot"), "{said}");
        let expected = format!("{}{WORDS}\n", sample.trim_end());
        assert_eq!(board.line(), expected);
        assert_eq!(board.beside(), ["cmdline.txt.before-minidc"]);
        assert_eq!(
            fs::read_to_string(board.path("boot/firmware/cmdline.txt.before-minidc")).unwrap(),
            sample
        );
        assert_eq!(
            fs::read_to_string(board.path("run/reboot-required.pkgs")).unwrap(),
            "minidc\n"
        );
        // twice is once
        let said = board.script("enable");
        assert!(!said.contains("changed") && said.contains("reboot"), "{said}");
        assert_eq!(board.line(), expected);
        assert_eq!(
            fs::read_to_string(board.path("run/reboot-required.pkgs")).unwrap(),
            "minidc\n"
        );
        // off again, twice
        assert!(board.script("disable").starts_with("changed\n"));
        assert_eq!(board.line(), format!("{}\n", sample.trim_end()));
        assert_eq!(board.script("disable"), "");
        assert!(board.beside().is_empty() && !board.path("var/cgroup-memory").exists());
    }
}

#[test]
fn what_others_wrote_into_the_command_line_stays() {
    // one of the words was there: it is not ours to take out
    let board = Board::new("firmware/cmdline.txt", "root=/dev/sda2 cgroup_enable=memory quiet\n");
    board.script("enable");
    assert_eq!(
        board.line(),
        "root=/dev/sda2 cgroup_enable=memory quiet cgroup_memory=1\n"
    );
    // and something came behind ours since
    fs::write(
        &board.file,
        "root=/dev/sda2 cgroup_enable=memory quiet cgroup_memory=1 video=x\n",
    )
    .unwrap();
    board.script("disable");
    assert_eq!(board.line(), "root=/dev/sda2 cgroup_enable=memory quiet video=x\n");
    // words that only look alike are no reason to leave ours out
    let board = Board::new(
        "firmware/cmdline.txt",
        "root=/dev/sda2 xcgroup_enable=memory cgroup_memory=10\n",
    );
    board.script("enable");
    assert!(board.line().trim_end().ends_with(WORDS));
    // somebody added a word between the installation and the next run: the note remembers both
    fs::write(&board.file, "root=/dev/sda2 cgroup_memory=1\n").unwrap();
    board.script("enable");
    assert_eq!(board.line(), "root=/dev/sda2 cgroup_memory=1 cgroup_enable=memory\n");
    board.script("disable");
    assert_eq!(board.line(), "root=/dev/sda2\n");
}

#[test]
fn only_the_first_line_counts_for_the_firmware() {
    let board = Board::new("firmware/cmdline.txt", "root=/dev/sda2 rootwait \r\n# a remark\n");
    board.script("enable");
    assert_eq!(board.line(), format!("root=/dev/sda2 rootwait{WORDS}\n# a remark\n"));
}

#[test]
fn a_machine_whose_kernel_can_limit_memory_is_left_alone() {
    let board = Board::new("firmware/cmdline.txt", SAMPLES[0]);
    fs::write(board.path("cgroup/cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
    assert_eq!(board.script("enable"), "");
    // with version 1 of cgroups it stands elsewhere
    fs::remove_file(board.path("cgroup/cgroup.controllers")).unwrap();
    let table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t60\t1\n";
    fs::write(board.path("proc/cgroups"), table).unwrap();
    assert_eq!(board.script("enable"), "");
    assert_eq!(board.line(), SAMPLES[0]);
    assert!(board.beside().is_empty() && !board.path("run/reboot-required").exists());
    // there, but switched off
    fs::write(board.path("proc/cgroups"), table.replace("60\t1", "60\t0")).unwrap();
    assert!(board.script("enable").starts_with("changed\n"));
}

#[test]
fn the_older_place_is_used_where_it_is_the_only_one() {
    let board = Board::new("cmdline.txt", SAMPLES[3]);
    board.script("enable");
    assert!(board.line().trim_end().ends_with(WORDS));
    // Raspberry Pi OS leaves a warning there since the file moved
    let warning = "DO NOT EDIT THIS FILE\n\nThe file you are looking for has moved to /boot/firmware/cmdline.txt\n";
    let board = Board::new("cmdline.txt", warning);
    fs::write(board.path("boot/firmware/cmdline.txt"), SAMPLES[1]).unwrap();
    board.script("enable");
    assert_eq!(board.line(), warning);
    assert!(
        fs::read_to_string(board.path("boot/firmware/cmdline.txt"))
            .unwrap()
            .trim_end()
            .ends_with(WORDS)
    );
    // a machine that has neither is told, and the installation goes on
    let board = Board::new("cmdline.txt", warning);
    assert_eq!(board.script("enable"), "");
    assert_eq!(board.line(), warning);
}

#[test]
fn scripts_are_in_order_and_posix() {
    let deb = workspace().join("image/deb");
    for script in ["scripts/postinst", "scripts/prerm", "scripts/postrm"]
        .into_iter()
        .chain(["files/usr/lib/minidc/cgroup-memory", "files/usr/lib/minidc/clean-up"])
    {
        let path = deb.join(script);
        run(Command::new("dash").arg("-n").arg(&path)).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o755,
            "{script}"
        );
    }
}

/// Builds a package around any program of this machine.
fn package(target: &Path) -> PathBuf {
    let built = run(Command::new(workspace().join("image/deb/build"))
        .args([architecture(), PROGRAM])
        .env("CARGO_TARGET_DIR", target)
        .env("SOURCE_DATE_EPOCH", "1700000000"))
    .unwrap();
    PathBuf::from(built.trim())
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

#[test]
fn the_same_inputs_give_the_same_package_with_everything_in_it() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, other) = (package(first.path()), package(second.path()));
    assert_eq!(one.file_name(), other.file_name());
    assert!(
        fs::read(&one).unwrap() == fs::read(&other).unwrap(),
        "two builds differ"
    );
    let list = run(Command::new("dpkg-deb").arg("-c").arg(&one)).unwrap();
    for path in [
        "./usr/bin/minidc",
        "./usr/lib/systemd/system/minidc.service",
        "./usr/lib/systemd/system/minidc-containerd.service",
        "./usr/share/minidc/containerd.toml",
        "./etc/minidc/config.toml",
        "./usr/lib/minidc/cgroup-memory",
    ] {
        let line = list
            .lines()
            .find(|line| line.ends_with(path))
            .unwrap_or_else(|| panic!("no {path} in\n{list}"));
        assert!(line.contains("root/root") && line.contains("2023-11-14"), "{line}");
    }
    let control = run(Command::new("dpkg-deb").arg("-f").arg(&one)).unwrap();
    assert!(control.contains("containerd | containerd.io"), "{control}");
    let conffiles = run(Command::new("dpkg-deb").args(["--info"]).arg(&one).arg("conffiles")).unwrap();
    assert_eq!(conffiles, "/etc/minidc/config.toml\n");
}

#[test]
fn a_program_for_another_machine_is_refused() {
    let target = tempfile::tempdir().unwrap();
    let other = if architecture() == "amd64" { "arm64" } else { "amd64" };
    let output = Command::new(workspace().join("image/deb/build"))
        .args([other, PROGRAM])
        .env("CARGO_TARGET_DIR", target.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no program for"));
}
