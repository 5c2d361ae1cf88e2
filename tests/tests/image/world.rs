//! What the promises share: the image, a laptop, cards that `minidc flash` made, and the two Pis of the rack, which are started by
//! the first promise that needs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use minidc_tests::{
    emulated::{Addressing, Board, Card, Machine, Model, Network, Power},
    minidc, run, workspace,
};
use serde_json::Value;

use crate::stages::{Mark, Stages};

/// Name of the cluster.
pub(crate) const CLUSTER: &str = "rack1";
/// Its boards, the server first.
pub(crate) const PIS: [&str; 2] = ["pi-1", "pi-2"];
/// What a card has room for.
pub(crate) const CARD: u64 = 8 << 30;
/// Longest wait for two emulated Pis to be Ready, on a computer that does other work too.
pub(crate) const READY: Duration = Duration::from_secs(45 * 60);
/// Longest wait for anything that a running Pi does.
pub(crate) const MOMENT: Duration = Duration::from_secs(5 * 60);

/// Two Pis, a laptop, and what connects them.
#[derive(Debug)]
pub(crate) struct Rack {
    /// In the order of [`PIS`].
    pub(crate) machines: Vec<Machine>,
    /// Their cards.
    pub(crate) cards: Vec<Card>,
    /// SHA-256 of the partitions that nobody may write to, by card and number, as flashed.
    pub(crate) untouched: Vec<Vec<(u32, String)>>,
    /// When the cards were flashed, by the laptop's clock, in seconds since 1970.
    pub(crate) flashed: u64,
    /// What may not be found on a selector partition any more.
    pub(crate) secrets: Vec<Vec<String>>,
    /// The cable between them.
    pub(crate) laptop: Laptop,
}

/// A computer on the network with a home of its own.
#[derive(Debug)]
pub(crate) struct Laptop {
    /// Its network.
    pub(crate) network: Network,
    home: PathBuf,
    program: PathBuf,
    key: PathBuf,
}

/// All of it.
pub(crate) struct World {
    /// Where everything is kept.
    pub(crate) directory: PathBuf,
    /// The image.
    image: PathBuf,
    rack: Mutex<Option<Result<Rack, String>>>,
}

impl World {
    /// Finds what is to be tested.
    pub(crate) fn new() -> Result<Self> {
        let image = std::env::var_os("IMAGE").context("IMAGE does not name the image: run `make test-image`")?;
        let image = workspace().join(image).canonicalize().context("the image")?;
        for program in [
            "qemu-system-aarch64",
            "dnsmasq",
            "mcopy",
            "ssh",
            "kubectl",
            "busybox",
            "cpio",
        ] {
            ensure!(
                run(Command::new("which").arg(program)).is_ok(),
                "{program} is missing: run `.ci/packages tests qemu image`"
            );
        }
        let directory = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(target) => PathBuf::from(target),
            None => workspace().join("target"),
        };
        let directory = directory.join("test-image");
        fs::create_dir_all(&directory)?;
        let directory = directory.canonicalize()?;
        Ok(Self {
            directory,
            image,
            rack: Mutex::new(None),
        })
    }

    /// Cuts the power of all that runs and removes what is large.
    pub(crate) fn end(&self) {
        drop(self.rack().take());
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "card") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// A laptop on a new network.
    pub(crate) fn laptop(&self, name: &str, addressing: Addressing) -> Result<Laptop> {
        let home = self.directory.join(name);
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        fs::create_dir_all(&home)?;
        let key = home.join("key");
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key))?;
        Ok(Laptop {
            network: Network::new(&home.join("network"), addressing)?,
            program: minidc()?.canonicalize()?,
            home,
            key,
        })
    }

    /// A card that the laptop flashed as this node.
    pub(crate) fn flash(&self, laptop: &Laptop, name: &str, role: &str, more: &[&str]) -> Result<Card> {
        let card = Card::blank(&self.directory.join(format!("{name}.card")), CARD)?;
        let device = card.path().display().to_string();
        let image = self.image.display().to_string();
        let mut arguments = vec!["flash", &image, "--device", &device, "--cluster", CLUSTER];
        arguments.extend(["--role", role, "--name", name, "--yes"]);
        arguments.extend(more);
        let printed = laptop.minidc(&arguments)?;
        let ready = printed.lines().find(|line| line.contains("is ready:"));
        println!(
            "{}",
            ready.with_context(|| format!("flash does not say that {name} is ready: {printed}"))?
        );
        Ok(card)
    }

    fn rack(&self) -> MutexGuard<'_, Option<Result<Rack, String>>> {
        self.rack.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the rack of two Pis, which is started when there is none yet.
    pub(crate) fn with_rack<T>(&self, work: impl FnOnce(&mut Rack) -> Result<T>) -> Result<T> {
        let mut rack = self.rack();
        match rack.get_or_insert_with(|| Rack::start(self).map_err(|error| format!("{error:#}"))) {
            Ok(rack) => work(rack),
            Err(error) => bail!("the rack did not start: {error}"),
        }
    }
}

impl Laptop {
    /// Runs minidc on the laptop.
    pub(crate) fn minidc(&self, arguments: &[&str]) -> Result<String> {
        run(self.at_home(&self.program.display().to_string()).args(arguments))
    }

    /// Runs kubectl on the laptop.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.at_home("kubectl").arg("--request-timeout=60s").args(arguments))
    }

    /// What `kubectl get … -o json` says.
    pub(crate) fn get(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        let printed = self.kubectl(&all)?;
        // Nothing, for what may be missing and is.
        if printed.trim().is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_str(&printed)?)
    }

    /// The public half of the key with which the laptop's owner logs in.
    pub(crate) fn public_key(&self) -> String {
        self.key.with_extension("pub").display().to_string()
    }

    /// The admin's kubeconfig, where `minidc flash` says that it is.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.home
            .join("config/minidc/clusters")
            .join(CLUSTER)
            .join("kubeconfig")
    }

    fn at_home(&self, program: &str) -> Command {
        let mut command = self.network.laptop(program);
        command
            .env("HOME", &self.home)
            .env("XDG_CONFIG_HOME", self.home.join("config"))
            .env("KUBECACHEDIR", self.home.join("kubectl-cache"))
            .env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Runs a script as root on a board.
    pub(crate) fn ssh(&self, address: &str, script: &str) -> Result<String> {
        let options = [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=120",
            "ServerAliveInterval=60",
        ];
        let mut command = self.network.laptop("ssh");
        for option in options {
            command.args(["-o", option]);
        }
        run(command
            .arg("-i")
            .arg(&self.key)
            .arg(format!("root@{address}"))
            .arg(script))
    }

    /// Whether a TCP port answers.
    pub(crate) fn answers(&self, address: &str, port: u16) -> bool {
        let script = format!("exec 3<>/dev/tcp/{address}/{port}");
        run(self.network.laptop("timeout").args(["20", "bash", "-c", &script])).is_ok()
    }

    /// Whether a node is Ready, and not only remembered as such: its lease is kept in memory, so that a control plane that has
    /// just started has none until it hears from the node.
    pub(crate) fn is_ready(&self, node: &str) -> Result<bool> {
        let lease = self.get(&["lease", "--namespace=kube-node-lease", "--ignore-not-found", node])?;
        Ok(lease.is_object() && minidc_tests::condition(&self.get(&["node", node])?, "Ready") == "True")
    }

    /// The address of a node.
    pub(crate) fn address(&self, node: &str) -> Result<String> {
        let node = self.get(&["node", node])?;
        let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
        let internal = addresses
            .into_iter()
            .flatten()
            .find(|address| address["type"] == "InternalIP");
        let address = internal.and_then(|address| address["address"].as_str());
        Ok(address.context("the node has no address")?.to_owned())
    }

    /// That a node says that its pods have a network, and that it has routes to those of all other nodes.
    pub(crate) fn has_network(&self, node: &str) -> Result<()> {
        let node = self.get(&["node", node])?;
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        for (kind, reason) in [
            ("NetworkUnavailable", "RouteCreated"),
            ("NetworkDegraded", "NetworkSound"),
        ] {
            let found = conditions.into_iter().flatten().find(|found| found["type"] == kind);
            let found = found.with_context(|| format!("it says nothing of {kind}"))?;
            ensure!(found["status"] == "False" && found["reason"] == reason, "{found}");
        }
        Ok(())
    }

    /// Waits until the cluster answers to the kubeconfig that `minidc kubeconfig` makes.
    pub(crate) fn find(&self, machine: &mut Machine) -> Result<()> {
        machine.until(READY, "minidc kubeconfig finds the rack", || {
            self.minidc(&["kubeconfig", "--cluster", CLUSTER])?;
            self.kubectl(&["get", "--raw", "/readyz"]).map(|_| true)
        })
    }
}

impl Rack {
    fn start(world: &World) -> Result<Self> {
        let laptop = world.laptop("laptop", Addressing::Dhcp)?;
        let key = laptop.public_key();
        let flashed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut cards = Vec::new();
        for (name, role) in PIS.into_iter().zip(["server", "node"]) {
            cards.push(world.flash(&laptop, name, role, &["--ssh-key", &key])?);
        }
        let untouched = cards
            .iter()
            .map(|card| {
                // Boot files and roots of both slots.
                let checksum = |number| Ok((number, card.checksum(number)?));
                [2, 3, 5, 6].into_iter().map(checksum).collect::<Result<_>>()
            })
            .collect::<Result<_>>()?;
        let secrets = cards.iter().map(secrets).collect::<Result<_>>()?;
        let mut rack = Self {
            machines: Vec::new(),
            cards,
            untouched,
            flashed,
            secrets,
            laptop,
        };
        rack.power_on(world, "first boot", |_| Power::on(Board::Pi3))?;
        Ok(rack)
    }

    /// Switches all Pis on, waits until they are Ready, and prints how long what took.
    pub(crate) fn power_on(&mut self, world: &World, what: &str, power: impl Fn(&str) -> Power) -> Result<()> {
        self.machines.clear();
        for (name, card) in PIS.into_iter().zip(&self.cards) {
            let machine = Machine::start(name, card, &self.laptop.network, &world.directory, &power(name))?;
            self.machines.push(machine);
        }
        self.laptop.find(&mut self.machines[0])?;
        let mut found = Mark::new("API answers to kubectl", self.machines[0].uptime());
        let laptop = &self.laptop;
        // All of them first: asking a slow board over SSH takes time that is not the next one's.
        let mut ready = Vec::new();
        for (name, machine) in PIS.into_iter().zip(&mut self.machines) {
            machine.until(READY, "node Ready", || laptop.is_ready(name))?;
            ready.push(Mark::new("Ready", machine.uptime()));
        }
        let mut stages = Vec::new();
        for (name, ready) in PIS.into_iter().zip(ready) {
            // What was remembered of the node may be an address that it had elsewhere.
            self.machines[0].until(MOMENT, "the address that DHCP gave it", || {
                Ok(laptop.network.lease(name) == Some(laptop.address(name)?))
            })?;
            let printed = laptop.ssh(&laptop.address(name)?, Stages::SCRIPT)?;
            stages.push(Stages::of(name, &printed, [found.take(), Some(ready)]));
        }
        println!("\n{what}, seconds since the kernel's start (emulated Pi 3, its card reads 1.6 MB/s):");
        println!("{}", Stages::table(&stages));
        Ok(())
    }

    /// Runs a script as root on a Pi.
    pub(crate) fn ssh(&self, name: &str, script: &str) -> Result<String> {
        self.laptop.ssh(&self.laptop.address(name)?, script)
    }
}

/// The secrets of a card: what stands between quotes in lines of its seed that name one.
fn secrets(card: &Card) -> Result<Vec<String>> {
    let seed = card.selector_file("minidc.toml")?.context("the card has no seed")?;
    let seed = String::from_utf8(seed)?;
    let mut found = Vec::new();
    for key in ["token = \"", "join_key = \""] {
        let value = seed.lines().find_map(|line| line.strip_prefix(key));
        found.extend(value.map(|value| value.trim_end_matches('"').to_owned()));
    }
    // The middle of the key's PEM is enough to know it by.
    let mut lines = seed.lines().skip_while(|line| !line.contains("PRIVATE KEY"));
    found.extend(lines.nth(1).map(str::to_owned));
    ensure!(!found.is_empty(), "the seed holds no secret:\n{seed}");
    Ok(found)
}

/// A program of the card's initrd, such as `bin/busybox`.
pub(crate) fn initrd_program(card: &Card, directory: &Path, name: &str) -> Result<Vec<u8>> {
    let files = card.boot_files(directory, Model::PI_3)?;
    let script = "for unpack in zstd xz gzip; do $unpack -dcq \"$0\" 2>/dev/null | cpio -i --quiet --to-stdout \"$1\" \"./$1\" 2>/dev/null >\"$2\"
        [ -s \"$2\" ] && exit; done; exit 1";
    let to = directory.join("initrd-program");
    run(Command::new("sh")
        .args(["-c", script])
        .arg(&files.initrd)
        .arg(name)
        .arg(&to))
    .with_context(|| format!("{name} in the initrd"))?;
    Ok(fs::read(&to)?)
}
