//! Files for the rest of the system, made of the seed at each start. All of them lie in memory on our image.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use minidc_image::{
    boot::supplicant,
    seed::{Role, Seed},
};
use toml::{Table, Value};

use super::{KEPT, RUN, TOKEN, files};
use crate::config::Config;

/// Where programs look for the configuration.
const CONFIG_LINK: &str = "etc/minidc/config.toml";
/// What a person wants different from what the seed says, below the data directory.
const EXTRA: &str = "config.toml";
const SUPPLICANT: &str = "etc/wpa_supplicant/wpa_supplicant-wlan0.conf";
/// Keys that only the seed decides.
const OF_THE_SEED: [&str; 3] = ["role", "name", "data"];

/// Writes them below `root`. `data` is the data directory as the running system will see it.
///
/// # Errors
/// If one cannot be written.
pub(crate) fn write(root: &Path, data: &Path, seed: &Seed) -> anyhow::Result<()> {
    let run = root.join(RUN);
    files::write(&root.join("etc/hostname"), format!("{}\n", seed.node).as_bytes(), 0o644)?;
    hosts(&root.join("etc/hosts"), &seed.node)?;
    keep_machine_id(&root.join("etc/machine-id"), &data.join(KEPT).join("machine-id"))?;

    let config = run.join("config.toml");
    files::write(&config, configuration(seed, data)?.as_bytes(), 0o600)?;
    link(&root.join(CONFIG_LINK), &Path::new("/").join(RUN).join("config.toml"))?;

    let keys = run.join("authorized_keys");
    if seed.ssh_keys.is_empty() {
        files::remove(&keys).with_context(|| format!("remove {}", keys.display()))?;
    } else {
        files::write(&keys, (seed.ssh_keys.join("\n") + "\n").as_bytes(), 0o600)?;
    }
    let wireless = root.join(SUPPLICANT);
    match &seed.wifi {
        Some(wifi) => files::write(&wireless, supplicant(wifi).as_bytes(), 0o600),
        None => files::remove(&wireless).with_context(|| format!("remove {}", wireless.display())),
    }
}

fn hosts(path: &Path, name: &str) -> anyhow::Result<()> {
    let present = files::read(path)?.unwrap_or_else(|| b"127.0.0.1 localhost\n::1 localhost ip6-localhost\n".to_vec());
    let present = String::from_utf8_lossy(&present);
    let mut text: String = present
        .lines()
        .filter(|line| !line.starts_with("127.0.1.1"))
        .map(|line| format!("{line}\n"))
        .collect();
    text.push_str(&format!("127.0.1.1 {name}\n"));
    files::write(path, text.as_bytes(), 0o644)
}

/// The id that this start was given becomes the board's own at the first, and is put back at the others: DHCP servers and the node's
/// object know the board by it.
fn keep_machine_id(path: &Path, kept: &Path) -> anyhow::Result<()> {
    let valid = |text: &[u8]| text.len() >= 32 && text[..32].iter().all(u8::is_ascii_hexdigit);
    let present = files::read(path)?.filter(|text| valid(text));
    match (files::read(kept)?.filter(|text| valid(text)), present) {
        (Some(own), present) if present.as_ref() != Some(&own) => {
            // in place: it may be a mount point
            std::fs::write(path, own).with_context(|| format!("write {}", path.display()))
        }
        (None, Some(present)) => files::replace(kept, &present),
        _ => Ok(()),
    }
}

/// A link to what is written anew at each start. A file that is no link was made by a person, and stays.
fn link(path: &Path, to: &Path) -> anyhow::Result<()> {
    let attempt = || -> io::Result<()> {
        match std::fs::symlink_metadata(path) {
            Ok(present) if !present.is_symlink() => {
                eprintln!("{} is a file of its own: it counts, not the seed", path.display());
                return Ok(());
            }
            Ok(_) => files::remove(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::os::unix::fs::symlink(to, path)
    };
    attempt().with_context(|| format!("link {}", path.display()))
}

/// The configuration file: what the seed says, and what a person has put on the data partition for things no seed knows of.
fn configuration(seed: &Seed, data: &Path) -> anyhow::Result<String> {
    let own = from_seed(seed, data);
    let path = data.join(EXTRA);
    let extra = match files::read(&path)? {
        None => Table::new(),
        Some(text) => read_extra(&path, &text).unwrap_or_else(|error| {
            eprintln!("{error:#}; it is left out");
            Table::new()
        }),
    };
    let mut merged = extra;
    lay_over(&mut merged, own);
    Ok(format!(
        "# Written at each start from minidc.toml on the card and, if there is one, {}.\n{merged}",
        path.display()
    ))
}

fn read_extra(path: &Path, text: &[u8]) -> anyhow::Result<Table> {
    let text = std::str::from_utf8(text).with_context(|| format!("read {}", path.display()))?;
    Config::parse(path, text)?;
    let mut table: Table = text.parse().with_context(|| format!("read {}", path.display()))?;
    for key in OF_THE_SEED {
        if table.remove(key).is_some() {
            eprintln!("{}: {key} is what the seed says, not this file", path.display());
        }
    }
    Ok(table)
}

/// Every key of `over` into `under`, sections by their keys.
fn lay_over(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => lay_over(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn from_seed(seed: &Seed, data: &Path) -> Table {
    let text = |path: &PathBuf| Value::from(path.display().to_string());
    let mut table = Table::new();
    table.insert("name".into(), seed.node.as_str().into());
    table.insert("data".into(), text(&data.to_owned()));
    let role = match seed.membership.role() {
        Role::Server => "server",
        Role::Node => "agent",
    };
    table.insert("role".into(), role.into());
    let mut cluster = Table::new();
    cluster.insert("name".into(), seed.cluster.as_str().into());
    table.insert("cluster".into(), cluster.into());
    let mut agent = Table::new();
    if !seed.servers.is_empty() {
        agent.insert("server".into(), seed.servers.clone().into());
    }
    let token = data.join(KEPT).join(TOKEN);
    if seed.membership.role() == Role::Node && token.exists() {
        agent.insert("token-file".into(), text(&token));
    }
    table.insert("agent".into(), agent.into());
    table
}
