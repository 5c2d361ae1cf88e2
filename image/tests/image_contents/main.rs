//! What must be in a built image, looked up in the image file itself. `make image` runs these with `MINIDC_IMAGE` and fails with
//! them; elsewhere there is no image to look at, so they are marked as ignored rather than passed.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod card;
mod elf;
mod tree;

use std::collections::{BTreeMap, BTreeSet};

use card::{Card, card};
use minidc_image::layout::{self, Slot, Table};
use tree::Tree;

/// Device tree of each model, and what the firmware of that model loads before the kernel.
const MODELS: [(&str, &str, &[&str]); 8] = [
    (
        "bcm2837-rpi-3-b.dtb",
        "raspberrypi,3-model-b",
        &["bootcode.bin", "start_cd.elf", "fixup_cd.dat"],
    ),
    (
        "bcm2837-rpi-3-b-plus.dtb",
        "raspberrypi,3-model-b-plus",
        &["bootcode.bin", "start_cd.elf", "fixup_cd.dat"],
    ),
    (
        "bcm2837-rpi-zero-2-w.dtb",
        "raspberrypi,model-zero-2-w",
        &["bootcode.bin", "start_cd.elf", "fixup_cd.dat"],
    ),
    (
        "bcm2711-rpi-4-b.dtb",
        "raspberrypi,4-model-b",
        &["start4cd.elf", "fixup4cd.dat"],
    ),
    (
        "bcm2711-rpi-400.dtb",
        "raspberrypi,400",
        &["start4cd.elf", "fixup4cd.dat"],
    ),
    (
        "bcm2711-rpi-cm4-io.dtb",
        "raspberrypi,4-compute-module",
        &["start4cd.elf", "fixup4cd.dat"],
    ),
    // A Pi 5 has all of its firmware on the board.
    ("bcm2712-rpi-5-b.dtb", "raspberrypi,5-model-b", &[]),
    ("bcm2712-d-rpi-5-b.dtb", "raspberrypi,5-model-b", &[]),
];

/// Modules that a rack of Pis cannot do without, by what they are for.
const MODULES: [(&str, &[&str]); 7] = [
    ("cards", &["bcm2835", "sdhci-iproc", "sdhci-brcmstb"]),
    (
        "network",
        &[
            "smsc95xx",
            "lan78xx",
            "genet",
            "macb",
            "cdc_ether",
            "r8152",
            "ax88179_178a",
            "brcmfmac",
            "brcmfmac-cyw",
            "brcmfmac-wcc",
        ],
    ),
    (
        "pods",
        &[
            "veth",
            "bridge",
            "br_netfilter",
            "vxlan",
            "overlay",
            "nf_tables",
            "nft_chain_nat",
            "nft_masq",
            "nft_compat",
            "nft_reject_ipv4",
            "nft_reject_inet",
            "nft_numgen",
            "nft_ct",
            "nft_nat",
            "nft_fib_ipv4",
            "nft_limit",
            "ipt_REJECT",
            "nf_conntrack",
            "xt_comment",
            "tun",
        ],
    ),
    (
        "volumes",
        &[
            "ext4",
            "nfs",
            "nfsv4",
            "loop",
            "usb-storage",
            "uas",
            "sd_mod",
            "nvme",
            "vfat",
            "exfat",
            "cifs",
        ],
    ),
    (
        "the board",
        &[
            "bcm2835_wdt",
            "bcm2711_thermal",
            "bcm2835_thermal",
            "leds-gpio",
            "raspberrypi-cpufreq",
            "pinctrl-rp1",
            "clk-rp1",
            "rp1-pci",
        ],
    ),
    (
        "pins",
        &[
            "i2c-bcm2835",
            "spi-bcm2835",
            "pwm-bcm2835",
            "i2c-dev",
            "w1-gpio",
            "w1_therm",
            "gpio-brcmstb",
        ],
    ),
    ("the emulated machine", &["virtio_net", "virtio_blk"]),
];

#[test]
#[ignore = "needs an image; make image runs it"]
fn its_partitions_are_those_of_a_card() {
    let card = card();
    let table: &Table = &card.table;
    table.check(card.bytes).unwrap();
    assert_eq!(table.disk, minidc_image::assemble::DISK);
    assert_eq!(table.end(), card.bytes);
    assert!(card.bytes < 1_900_000_000, "a card of 2 GB is too small");
    for slot in [Slot::A, Slot::B] {
        assert!(card.read(slot.root(), 0, 4) == b"hsqs", "{slot:?} has no root");
    }
    assert!(
        card.slots[0].root_bytes == card.slots[1].root_bytes,
        "the slots' roots differ"
    );
    // The magic number of ext4 and the label, at their places in the superblock.
    assert_eq!(card.read(layout::DATA, 1024 + 56, 2), [0x53, 0xef]);
    assert_eq!(card.read(layout::DATA, 1024 + 120, 12), b"minidc-data\0");
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn the_selector_leads_to_slot_a_and_its_seed_says_nothing_yet() {
    let selector = &card().selector;
    assert_eq!(text(selector, "autoboot.txt"), layout::autoboot(Slot::A));
    assert!(selector.contains_key("bootcode.bin"));
    assert_eq!(text(selector, minidc_image::seed::FILE), minidc_image::seed::template());
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn each_model_finds_its_boot_files_in_both_slots() {
    for slot in &card().slots {
        for (tree, model, firmware) in MODELS {
            let blob = slot.boot.get(tree).unwrap_or_else(|| panic!("{tree} is missing"));
            assert_eq!(blob[..4], [0xd0, 0x0d, 0xfe, 0xed], "{tree} is no device tree");
            assert!(holds(blob, model.as_bytes()), "{tree} is not for {model}");
            for file in firmware {
                assert!(
                    slot.boot.get(*file).is_some_and(|bytes| bytes.len() > 1000),
                    "{file} is missing"
                );
            }
        }
        let config = text(&slot.boot, "config.txt");
        let named: Vec<&str> = config
            .lines()
            .filter_map(|line| {
                line.strip_prefix("kernel=")
                    .or(line.strip_prefix("device_tree="))
                    .or(line.strip_prefix("initramfs "))
            })
            .filter_map(|rest| rest.split_whitespace().next())
            .collect();
        assert!(named.contains(&"vmlinuz") && named.contains(&"initrd.img"), "{named:?}");
        for name in named {
            assert!(
                slot.boot.contains_key(name),
                "config.txt names {name}, which is missing"
            );
        }
        // The magic number of a 64-bit ARM kernel.
        assert_eq!(slot.kernel()[56..60], *b"ARMd");
    }
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn each_slot_starts_its_own_root() {
    for (slot, number) in card().slots.iter().zip([Slot::A, Slot::B].map(Slot::root)) {
        let line = text(&slot.boot, "cmdline.txt");
        assert_eq!(line.lines().count(), 1);
        let root = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("root=PARTUUID="))
            .unwrap();
        assert_eq!(root, format!("{:08x}-{number:02x}", card().table.disk));
        assert!(line.split_whitespace().any(|word| word == "net.ifnames=0"));
    }
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn modules_are_of_the_kernel_beside_them_and_whole() {
    let root = &card().root;
    let releases = root.names("usr/lib/modules");
    assert_eq!(releases.len(), 1);
    let release = releases.first().unwrap();
    for slot in &card().slots {
        let banner = format!("Linux version {release} ");
        assert!(holds(&slot.kernel(), banner.as_bytes()), "the kernel is not {release}");
        let initrd = slot.initrd();
        let tree = format!("lib/modules/{release}");
        assert!(initrd.is_dir(&tree), "the initrd's modules are not of {release}");
        complete(&initrd, &tree);
        for needed in ["init", "bin/busybox"] {
            assert!(initrd.is_executable(needed), "{needed} is missing in the initrd");
        }
        let present = module_names(&initrd, &tree);
        for needed in [
            "squashfs",
            "overlay",
            "bcm2835",
            "sdhci_iproc",
            "sdhci_brcmstb",
            "irq_bcm2712_mip",
        ] {
            assert!(present.contains(needed), "the initrd lacks {needed}");
        }
    }
    let tree = format!("usr/lib/modules/{release}");
    complete(root, &tree);
    let mut present = module_names(root, &tree);
    present.extend(built_in(root, &tree));
    for (purpose, modules) in MODULES {
        for module in modules {
            assert!(
                present.contains(&module.replace('-', "_")),
                "{module} is missing, for {purpose}"
            );
        }
    }
}

/// Every module that another needs is there.
fn complete(tree: &Tree, below: &str) {
    let needs = tree.text(&format!("{below}/modules.dep"));
    for line in needs.lines() {
        let (module, others) = line.split_once(':').unwrap();
        for path in std::iter::once(module).chain(others.split_whitespace()) {
            assert!(tree.is_file(&format!("{below}/{path}")), "{path} is missing");
        }
    }
}

fn module_names(tree: &Tree, below: &str) -> BTreeSet<String> {
    let lines = tree.text(&format!("{below}/modules.dep"));
    lines
        .lines()
        .filter_map(|line| line.split(':').next())
        .map(module_name)
        .collect()
}

fn built_in(tree: &Tree, below: &str) -> Vec<String> {
    tree.text(&format!("{below}/modules.builtin"))
        .lines()
        .map(module_name)
        .collect()
}

fn module_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn only_the_data_partition_is_mounted_and_nothing_swaps() {
    let table = card().root.text("etc/fstab");
    let lines: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let place = format!("PARTUUID={:08x}-{:02x}", card().table.disk, layout::DATA);
    assert_eq!(lines[0][..3], [place.as_str(), "/var/lib/minidc", "ext4"]);
    let options: Vec<&str> = lines[0][3].split(',').collect();
    for option in ["noatime", "nofail", "x-systemd.growfs"] {
        assert!(options.contains(&option), "{option}");
    }
    assert_eq!(lines[0][5], "2", "it is checked before it is mounted");
    assert!(card().root.is_dir("var/lib/minidc"));
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn exactly_the_named_units_run_and_their_programs_are_there() {
    let root = &card().root;
    let listed = include_str!("../../units.list");
    let expected: BTreeSet<&str> = listed.lines().filter(|line| !line.starts_with('#')).collect();
    let mut enabled = BTreeSet::new();
    for directory in root.names("etc/systemd/system") {
        let path = format!("etc/systemd/system/{directory}");
        // Settings for a unit that does not exist would do nothing, silently.
        if let Some(unit) = directory.strip_suffix(".d") {
            let template = unit.split_once('@').map(|(name, _)| format!("{name}@.service"));
            let places = ["etc", "usr/lib"].map(|start| format!("{start}/systemd/system"));
            let known = |name: &str| places.iter().any(|place| root.is_file(&format!("{place}/{name}")));
            assert!(
                known(unit) || template.is_some_and(|name| known(&name)),
                "there is no {unit}"
            );
        }
        if directory.ends_with(".wants") || directory.ends_with(".requires") {
            for unit in root.names(&path) {
                assert!(root.is_file(&format!("{path}/{unit}")), "{path}/{unit} leads nowhere");
                enabled.insert(unit);
            }
        }
    }
    let enabled: BTreeSet<&str> = enabled.iter().map(String::as_str).collect();
    // What its [Install] adds to a unit (`Also=`) is not enabled by itself.
    assert_eq!(enabled, expected);
    let masked = |unit: &str| root.link(&format!("etc/systemd/system/{unit}")).as_deref() == Some("/dev/null");
    for unit in [
        "getty.target",
        "containerd.service",
        "rpcbind.service",
        "systemd-logind.service",
        "ldconfig.service",
    ] {
        assert!(masked(unit), "{unit} must not run");
    }
    let mut looked_at = 0;
    for directory in ["etc/systemd/system", "usr/lib/systemd/system"] {
        for unit in root.names(directory) {
            let path = format!("{directory}/{unit}");
            if !root.is_file(&path) || root.link(&path).is_some() {
                continue;
            }
            // Only what runs here: of the rest of systemd many units are for other machines.
            let runs = enabled.contains(unit.as_str()) || directory.starts_with("etc") || static_and_pulled_in(&unit);
            if !runs {
                continue;
            }
            for program in programs(&root.text(&path)) {
                assert!(
                    root.is_executable(program.trim_start_matches('/')),
                    "{path} starts {program}, which is missing"
                );
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 20, "only {looked_at} programs of units");
}

fn static_and_pulled_in(unit: &str) -> bool {
    [
        "dbus.service",
        "systemd-journald.service",
        "systemd-udevd.service",
        "systemd-tmpfiles-setup.service",
        "systemd-modules-load.service",
        "systemd-sysctl.service",
        "systemd-fsck@.service",
        "systemd-growfs@.service",
        "systemd-reboot.service",
        "kmod-static-nodes.service",
    ]
    .contains(&unit)
}

/// First words of Exec lines, without the marks that systemd allows before them.
fn programs(unit: &str) -> Vec<String> {
    unit.lines()
        .filter(|line| line.starts_with("Exec"))
        .filter_map(|line| line.split_once('=')?.1.split_whitespace().next())
        .map(|word| word.trim_start_matches(['-', '@', ':', '+', '!']).to_owned())
        .filter(|program| program.starts_with('/'))
        .collect()
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn nobody_has_a_password_and_nothing_gives_rights() {
    let root = &card().root;
    let accounts = root.text("etc/passwd");
    let shadow = root.text("etc/shadow");
    assert_eq!(accounts.lines().count(), shadow.lines().count());
    for line in shadow.lines() {
        assert_eq!(line.split(':').nth(1), Some("*"), "{line}");
    }
    for line in accounts.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        assert_eq!(fields.len(), 7, "{line}");
        assert_eq!(fields[1], "x", "{line}");
        assert!(fields[2] != "0" || fields[0] == "root", "{line}");
    }
    let unique = |field: usize| {
        accounts
            .lines()
            .filter_map(|line| line.split(':').nth(field))
            .collect::<BTreeSet<_>>()
            .len()
    };
    assert_eq!(
        (unique(0), unique(2)),
        (accounts.lines().count(), accounts.lines().count())
    );
    let setuid: Vec<_> = root
        .entries()
        .filter(|(_, entry)| entry.mode & 0o6000 != 0 && !entry.directory)
        .collect();
    assert!(setuid.is_empty(), "{setuid:?}");
    let open: Vec<_> = root
        .entries()
        .filter(|(_, entry)| entry.mode & 0o002 != 0 && entry.mode & 0o1000 == 0 && !entry.link)
        .collect();
    assert!(open.is_empty(), "anybody may write to {open:?}");
    let daemon = root.text("etc/ssh/sshd_config");
    for line in [
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
    ] {
        assert!(daemon.lines().any(|other| other == line), "{line}");
    }
    let unit = root.text("etc/systemd/system/ssh.service.d/minidc.conf");
    assert!(unit.contains("ConditionPathExists=/run/minidc-boot/authorized_keys"));
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn nothing_in_it_would_be_the_same_secret_on_every_card() {
    let root = &card().root;
    assert_eq!(root.text("etc/machine-id"), "");
    assert!(!root.exists("var/lib/systemd/random-seed"));
    for (path, entry) in root.entries() {
        let name = path.rsplit('/').next().unwrap_or_default();
        assert!(!name.starts_with("ssh_host_"), "{path}");
        let text_of_keys = ["etc/", "root/", "var/", "home/"]
            .iter()
            .any(|start| path.starts_with(start));
        if text_of_keys && !entry.directory && !entry.link && entry.bytes < 100_000 {
            assert!(!holds(&root.bytes(path), b"PRIVATE KEY"), "{path}");
        }
    }
    assert!(root.names("root").is_empty() || root.names("root").iter().all(|name| name.starts_with('.')));
    assert!(root.names("home").is_empty());
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn every_program_finds_its_libraries() {
    let root = &card().root;
    let mut problems = Vec::new();
    let mut programs = 0;
    for (path, entry) in root.entries() {
        if entry.directory || entry.link || !path.starts_with("usr/") || path.starts_with("usr/lib/modules/") {
            continue;
        }
        let bytes = root.bytes(path);
        let Some(elf) = elf::parse(&bytes) else { continue };
        programs += 1;
        if elf.machine != elf::AARCH64 {
            problems.push(format!("{path} is not for arm64"));
        }
        if let Some(loader) = &elf.interpreter
            && !root.is_executable(loader.trim_start_matches('/'))
        {
            problems.push(format!("{path} needs {loader}"));
        }
        for library in &elf.needed {
            let origin = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            let own = elf
                .search
                .iter()
                .map(|directory| directory.replace("$ORIGIN", &format!("/{origin}")));
            // A library beside it is there already when the program that knows the place has loaded both.
            let places = own.chain([
                "/usr/lib/aarch64-linux-gnu".into(),
                "/usr/lib".into(),
                format!("/{origin}"),
            ]);
            if !places
                .into_iter()
                .any(|place| root.is_file(&format!("{}/{library}", place.trim_start_matches('/'))))
            {
                problems.push(format!("{path} needs {library}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(programs > 400, "only {programs} programs and libraries");
    for program in [
        "minidc",
        "containerd",
        "ctr",
        "containerd-shim-runc-v2",
        "nft",
        "mount",
        "resizepart",
        "systemctl",
        "findmnt",
        "ssh-keygen",
    ] {
        let name = format!("usr/bin/{program}");
        assert!(
            root.is_executable(&name) || root.is_executable(&format!("usr/sbin/{program}")),
            "{program} is missing"
        );
    }
    for program in [
        "runc",
        "iptables",
        "iptables-save",
        "avahi-daemon",
        "mount.nfs",
        "mount.nfs4",
        "wpa_supplicant",
        "iw",
        "sshd",
        "fsck.ext4",
        "modprobe",
        "reboot",
        "init",
    ] {
        assert!(
            root.is_executable(&format!("usr/sbin/{program}")),
            "{program} is missing"
        );
    }
    for plugin in ["bridge", "host-local", "portmap", "loopback"] {
        assert!(
            root.is_executable(&format!("usr/lib/cni/{plugin}")),
            "the CNI plugin {plugin} is missing"
        );
    }
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn every_link_and_every_interpreter_resolves() {
    let root = &card().root;
    let mut problems = Vec::new();
    for (path, entry) in root.entries() {
        if entry.link {
            // What other file systems bring at run time.
            let outside = ["/run/", "/proc/", "/dev/null", "/var/lib/minidc/"];
            let target = root.destination(path);
            if !root.exists(target.trim_start_matches('/')) && !outside.iter().any(|start| target.starts_with(start)) {
                problems.push(format!("{path} leads to {target}, which is missing"));
            }
        } else if !entry.directory && entry.mode & 0o111 != 0 {
            let bytes = root.bytes(path);
            let first = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let interpreter = std::str::from_utf8(first)
                .ok()
                .and_then(|line| line.strip_prefix("#!"))
                .and_then(|line| line.split_whitespace().next());
            if let Some(interpreter) = interpreter
                && !root.is_executable(interpreter.trim_start_matches('/'))
            {
                problems.push(format!("{path} is for {interpreter}, which is missing"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn files_belong_to_accounts_that_exist_and_licences_are_there() {
    let root = &card().root;
    let numbers = |file: &str| -> BTreeSet<u32> {
        root.text(file)
            .lines()
            .filter_map(|line| line.split(':').nth(2)?.parse().ok())
            .collect()
    };
    let (users, groups) = (numbers("etc/passwd"), numbers("etc/group"));
    for (path, entry) in root.entries() {
        assert!(
            users.contains(&entry.user) && groups.contains(&entry.group),
            "{path} belongs to {}:{}",
            entry.user,
            entry.group
        );
    }
    let status = root.text("var/lib/dpkg/status");
    let packages: Vec<&str> = status
        .lines()
        .filter_map(|line| line.strip_prefix("Package: "))
        .collect();
    let locked = include_str!("../../packages.lock")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count();
    assert_eq!(packages.len(), locked + 1, "those of the lock, and minidc");
    let texts: BTreeMap<&str, bool> = packages
        .iter()
        .map(|package| (*package, root.is_file(&format!("usr/share/doc/{package}/copyright"))))
        .collect();
    let missing: Vec<_> = texts
        .iter()
        .filter(|(_, there)| !**there)
        .map(|(package, _)| package)
        .collect();
    assert!(missing.is_empty(), "no licence of {missing:?}");
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn a_board_that_hangs_starts_again_and_the_journal_is_in_memory() {
    let root = &card().root;
    let settings = |file: &str| root.text(file);
    assert!(settings("etc/systemd/system.conf.d/minidc.conf").contains("\nRuntimeWatchdogSec=14s\n"));
    assert!(settings("etc/systemd/journald.conf.d/minidc.conf").contains("\nStorage=volatile\n"));
    assert!(settings("etc/sysctl.d/minidc.conf").contains("\nkernel.panic = 10\n"));
    assert_eq!(
        root.link("etc/resolv.conf").as_deref(),
        Some("../run/systemd/resolve/resolv.conf")
    );
    assert_eq!(root.link("var/log/pods").as_deref(), Some("/var/lib/minidc/log/pods"));
}

#[test]
#[ignore = "needs an image; make image runs it"]
fn what_people_download_is_below_250_megabytes() {
    let Card { packed, .. } = card();
    if let Some(bytes) = packed {
        assert!(*bytes < 250_000_000, "{bytes} bytes");
    }
}

fn text(files: &BTreeMap<String, Vec<u8>>, name: &str) -> String {
    let bytes = files.get(name).unwrap_or_else(|| panic!("{name} is missing"));
    String::from_utf8(bytes.clone()).unwrap()
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    // Eight bytes at a time would be faster; a kernel of 50 MB takes a second so.
    wanted.first().is_some_and(|first| {
        bytes
            .iter()
            .enumerate()
            .any(|(at, byte)| byte == first && bytes[at..].starts_with(wanted))
    })
}
