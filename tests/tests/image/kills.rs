//! Power cuts of a whole machine while the API is written to: kernel, drivers, root, program and data partition of the image, with
//! as little started as the API needs, so that ten cuts do not take hours.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use minidc_tests::{
    clients::{Bound, Proxy, Writer},
    emulated::{Card, Model},
    eventually,
    history::{History, Random, Written},
    run, workspace,
};

use crate::world::World;

pub(crate) const ALL: &[crate::Promise] = &[("ten_power_cuts_lose_no_acknowledged_write", ten_power_cuts)];

const CUTS: usize = 10;
const WRITERS: usize = 2;
/// Writes that are acknowledged before each cut, at least.
const WRITES: usize = 15;
/// Longest wait for the API after the power is on.
const BOOT: Duration = Duration::from_secs(10 * 60);
/// What a card has room for.
const CARD: u64 = 4 << 30;

/// In the place of the initrd's own `init`: drivers and root as there, then `start` instead of systemd.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc /sys /run /ro /rw /root
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
modprobe -a squashfs overlay
until [ -b /dev/vda7 ]; do
	cat $(find /sys/devices -name modalias) | sort -u | xargs modprobe -abq
	sleep 0.1
done
mount -t squashfs -o ro /dev/vda5 /ro
mount -t tmpfs rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work root /root
cp /start /root/start
mkdir -p /run/minidc-boot
echo /dev/vda5 >/run/minidc-boot/root
for directory in dev proc sys run; do mount -o move "/$directory" "/root/$directory"; done
exec switch_root /root /bin/sh /start
"#;

/// What systemd does with the data partition, then the API alone. `@OPTIONS@` are those of fstab.
const START: &str = r#"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/
modprobe -a ext4 virtio_net
minidc boot grow || echo "cuts: failed to grow the partition"
e2fsck -y /dev/vda7
[ $? -le 1 ] || echo "cuts: failed to mend the file system"
mount -t ext4 -o @OPTIONS@ /dev/vda7 /var/lib/minidc || echo "cuts: failed to mount"
/usr/lib/systemd/systemd-growfs /var/lib/minidc || echo "cuts: failed to grow the file system"
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
(
	until [ -s /var/lib/minidc/server/admin.kubeconfig ]; do sleep 0.2; done
	echo "cuts: kubeconfig"
	cat /var/lib/minidc/server/admin.kubeconfig
	echo "cuts: end"
) &
minidc server --no-node --name pi-1 >/run/minidc.log 2>&1
echo "cuts: failed to run"
tail -n 30 /run/minidc.log
sleep 1000
"#;

/// A machine, as long as it has power.
struct Machine {
    _qemu: Bound,
    console: PathBuf,
}

/// What machines are made of.
struct Parts {
    card: Card,
    kernel: PathBuf,
    initrd: PathBuf,
    parameters: String,
    directory: PathBuf,
    /// The API's on this computer.
    port: u16,
}

fn ten_power_cuts(world: &World) -> Result<()> {
    let parts = Parts::new(&world.directory.join("cuts"))?;
    let kubeconfig = parts.directory.join("kubeconfig");
    let mut random = Random(10);
    let mut history = History::default();
    let mut writers: Vec<Writer> = (0..WRITERS).map(Writer::new).collect();
    let clock = AtomicUsize::new(1);
    let tick = || clock.fetch_add(1, Ordering::SeqCst);
    let mut acknowledged = 0;
    for cut in 0..=CUTS {
        if cut % 3 == 1 {
            // the power comes back and goes again before anything runs
            let machine = parts.power_on()?;
            std::thread::sleep(Duration::from_millis(1000 + random.below(15_000) as u64));
            drop(machine);
            parts.examine()?;
        }
        let begun = Instant::now();
        let machine = parts.power_on()?;
        eventually(BOOT, "the API answers", || {
            Ok(machine.failed().is_some() || machine.answers(&kubeconfig, parts.port)?)
        })?;
        if let Some(console) = machine.failed() {
            bail!("after cut {cut}:\n{console}");
        }
        let up = begun.elapsed();
        let proxy = Proxy::start(&kubeconfig, &parts.directory.join("api.socket"))?;
        let found = proxy.found()?;
        history
            .judge(tick(), &found)
            .with_context(|| format!("after cut {cut}"))?;
        // what was read now may not change any more
        for name in history.names() {
            let (value, started) = (found.get(&name).cloned(), tick());
            history.push(Written {
                name,
                value,
                started,
                acknowledged: tick(),
            });
        }
        writers.iter_mut().for_each(|writer| writer.look(&found));
        if cut == CUTS {
            break;
        }
        let off = AtomicBool::new(false);
        let count = AtomicUsize::new(0);
        let attempts = std::thread::scope(|scope| -> Result<Vec<Written>> {
            let running: Vec<_> = writers
                .iter_mut()
                .map(|writer| {
                    let (proxy, off, count, tick) = (&proxy, &off, &count, &tick);
                    scope.spawn(move || {
                        let mut attempts = Vec::new();
                        loop {
                            let (attempt, error) = writer.write(proxy, tick);
                            attempts.push(attempt);
                            match error {
                                None => count.fetch_add(1, Ordering::SeqCst),
                                Some(_) if off.load(Ordering::SeqCst) => return Ok(attempts),
                                Some(error) => return Err(error),
                            };
                        }
                    })
                })
                .collect();
            let enough = eventually(BOOT, "enough is written", || Ok(count.load(Ordering::SeqCst) >= WRITES));
            std::thread::sleep(Duration::from_millis(random.below(3000) as u64));
            off.store(true, Ordering::SeqCst);
            drop(machine);
            enough?;
            let ended = running
                .into_iter()
                .map(|writer| writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?);
            Ok(ended.collect::<Result<Vec<_>>>()?.concat())
        })?;
        let written = count.load(Ordering::SeqCst);
        println!(
            "cut {cut}: the API answered after {:.0} s; {written} writes acknowledged",
            up.as_secs_f32()
        );
        acknowledged += written;
        attempts.into_iter().for_each(|attempt| history.push(attempt));
        drop(proxy);
        parts.examine()?;
    }
    println!("{CUTS} cuts, {acknowledged} acknowledged writes, none lost");
    fs::remove_dir_all(&parts.directory)?;
    Ok(())
}

impl Parts {
    fn new(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let card = Card::blank(&directory.join("cuts.card"), CARD)?;
        let image = workspace().join(std::env::var_os("IMAGE").context("IMAGE names no image")?);
        run(Command::new("sh")
            .args([
                "-c",
                "zstd -dcq --long=27 \"$0\" | dd of=\"$1\" bs=1M conv=notrunc,sparse iflag=fullblock status=none",
            ])
            .arg(&image)
            .arg(card.path()))?;
        let boot = card.boot_files(directory, Model::PI_3)?;
        // a later archive's files take the place of an earlier one's
        let more = directory.join("more");
        fs::create_dir_all(&more)?;
        fs::write(more.join("init"), INIT)?;
        fs::write(more.join("start"), START.replace("@OPTIONS@", &mount_options()?))?;
        let initrd = directory.join("initrd-cuts");
        run(Command::new("sh")
            .args([
                "-euc",
                "chmod 755 \"$0/init\"; { cat \"$1\"; cd \"$0\"; find . | cpio --quiet -o -H newc | gzip; } >\"$2\"",
            ])
            .args([&more, &boot.initrd, &initrd]))?;
        // free now, and nobody else's for a while
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self {
            card,
            kernel: boot.kernel,
            initrd,
            // a console that the machine has not would keep the one that it has from being used
            parameters: boot
                .command_line
                .split(' ')
                .filter(|word| !word.starts_with("console="))
                .collect::<Vec<_>>()
                .join(" "),
            directory: directory.canonicalize()?,
            port,
        })
    }

    fn power_on(&self) -> Result<Machine> {
        let console = self.directory.join("console.log");
        let _ = fs::remove_file(&console);
        let mut command = Command::new("qemu-system-aarch64");
        command.args([
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
            "-accel",
            "tcg,thread=multi",
        ]);
        command.args(["-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "512"]);
        // no clock that went on while there was no power
        command.args([
            "-rtc",
            "base=1970-01-01",
            "-serial",
            &format!("file:{}", console.display()),
        ]);
        command
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd);
        command.args(["-append", &format!("{} console=ttyAMA0", self.parameters)]);
        command.args([
            "-drive",
            &format!("file={},format=raw,if=none,id=card", self.card.path().display()),
        ]);
        command.args(["-device", "virtio-blk-pci,drive=card"]);
        command.args([
            "-netdev",
            &format!("user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{}-:6443", self.port),
        ]);
        command.args(["-device", "virtio-net-pci,netdev=n0,romfile="]);
        Ok(Machine {
            _qemu: Bound::start(&command)?,
            console,
        })
    }

    /// The data partition as the next start finds and mends it, on a copy.
    fn examine(&self) -> Result<()> {
        let data = self.card.partition(7)?;
        let copy = self.directory.join("data.copy");
        let script = "dd if=\"$0\" of=\"$1\" bs=1M iflag=skip_bytes,count_bytes,fullblock conv=sparse status=none skip=$2 count=$3; truncate -s $3 \"$1\"
            e2fsck -y \"$1\"; [ $? -le 1 ]; e2fsck -fn \"$1\"; rm \"$1\"";
        run(Command::new("sh")
            .args(["-euc", &script.replace("; [ $? -le 1 ]", " || [ $? = 1 ]")])
            .arg(self.card.path())
            .arg(&copy)
            .args([data.start.to_string(), data.bytes.to_string()])
            .stdin(Stdio::null()))
        .context("the data partition after a cut")
        .map(drop)
    }
}

impl Machine {
    fn shown(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).replace('\r', "")
    }

    /// All that it showed, if there is a failure in it.
    fn failed(&self) -> Option<String> {
        let shown = self.shown();
        let failure = |line: &str| line.starts_with("cuts: failed") || line.contains("Kernel panic");
        shown.lines().any(failure).then_some(shown)
    }

    /// Whether the API answers to the kubeconfig that the console shows.
    fn answers(&self, kubeconfig: &Path, port: u16) -> Result<bool> {
        let shown = self.shown();
        let text = shown
            .split_once("cuts: kubeconfig\n")
            .and_then(|(_, rest)| rest.split_once("cuts: end"));
        let (text, _) = text.with_context(|| format!("there is no kubeconfig yet\n{shown}"))?;
        let lines = text.lines().map(|line| match line.split_once("server: ") {
            Some((before, _)) => format!("{before}server: https://127.0.0.1:{port}\n"),
            None => format!("{line}\n"),
        });
        fs::write(kubeconfig, lines.collect::<String>())?;
        run(Command::new("kubectl")
            .args(["--request-timeout=20s", "get", "--raw", "/readyz", "--kubeconfig"])
            .arg(kubeconfig))?;
        Ok(true)
    }
}

/// How fstab has the data partition mounted.
fn mount_options() -> Result<String> {
    let table = fs::read_to_string(workspace().join("image/root/etc/fstab"))?;
    let line = table.lines().find(|line| line.contains(" /var/lib/minidc "));
    let options = line
        .and_then(|line| line.split_whitespace().nth(3))
        .context("the data partition in fstab")?;
    let kept = options
        .split(',')
        .filter(|option| !option.starts_with("x-systemd.") && *option != "nofail");
    Ok(kept.collect::<Vec<_>>().join(","))
}
