//! Writes the seed's file.

use std::fmt::Write;

use super::{Membership, Seed};

pub(super) fn render(seed: &Seed) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut text, seed);
    text
}

/// A TOML string with everything escaped that could end it or confuse an editor.
fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            other if other.is_control() || ('\u{2028}'..='\u{202e}').contains(&other) || other == '\u{feff}' => {
                let _ = write!(text, "\\U{:08x}", u32::from(other));
            }
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

/// Many lines between three quotes when there is nothing to escape, so that PEM looks like PEM.
fn block(value: &str) -> String {
    let plain = |character: char| character == '\n' || (!character.is_control() && character.is_ascii());
    if value.contains('\n') && value.chars().all(plain) && !value.contains(['"', '\\']) {
        format!("\"\"\"\n{value}\"\"\"")
    } else {
        quoted(value)
    }
}

fn list(values: &[String]) -> String {
    if values.is_empty() {
        return "[]".into();
    }
    let lines: Vec<String> = values.iter().map(|value| format!("    {},\n", quoted(value))).collect();
    format!("[\n{}]", lines.concat())
}

fn write(out: &mut String, seed: &Seed) -> std::fmt::Result {
    let role = seed.membership.role();
    writeln!(
        out,
        "\
# What makes this board a node of your cluster. You may edit this file with any text editor; it is read at every start.
# Text stands between \"quotes\". A line that begins with # is a remark.
# If something here is wrong, the board's LED shows it and a file minidc-problem.txt appears beside this one.

# Name of the cluster: small letters, digits, hyphens. The same on all cards.
cluster = {}

# Name of this board: small letters, digits, hyphens. Another one on each card.
name = {}

# \"server\": keeps the cluster together, one board has it. \"node\": all others.
role = {}",
        quoted(&seed.cluster),
        quoted(&seed.node),
        quoted(&role.to_string()),
    )?;
    if let Membership::Node { token, ca_pin } = &seed.membership {
        match token {
            Some(token) => writeln!(
                out,
                "\n# Lets this board join once. Treat it like a password; it is removed from here after the first start.\ntoken = {}",
                quoted(token.expose())
            )?,
            None => out.push_str("\n# The token was moved off this partition at the first start. Put a new one here to join again:\n# token = \"minidc1…\"\n"),
        }
        if let Some(pin) = ca_pin {
            writeln!(
                out,
                "\n# The cluster's certificate authority is known by this.\nca_pin = {}",
                quoted(pin)
            )?;
        }
    }
    if let Some(pin) = &seed.moved_authority {
        writeln!(
            out,
            "\n# The cluster's identity was moved off this partition at the first start. It is known by this.\nca_pin = {}",
            quoted(pin)
        )?;
    }
    out.push_str(
        "\n# Where the server is, as [\"192.168.1.10\"]. Leave it empty: boards find each other on their network.\n",
    );
    writeln!(out, "server = {}", list(&seed.servers))?;
    out.push_str("\n# Public keys (the line in a .pub file) that may log in over SSH as root. With none there is no SSH at all.\n");
    writeln!(out, "ssh_keys = {}", list(&seed.ssh_keys))?;
    if let Some(time) = seed.time {
        let time = jiff::Timestamp::from_second(time.as_second()).unwrap_or(time);
        writeln!(
            out,
            "\n# When this card was made: a board has no clock of its own, and starts with this time at the earliest.\ntime = {time}"
        )?;
    }
    match &seed.wifi {
        Some(wifi) => {
            writeln!(
                out,
                "\n# Wi-Fi, used when there is no cable. Without the line \"password\" it is an open network.\n[wifi]\nssid = {}",
                quoted(&wifi.ssid)
            )?;
            if let Some(password) = &wifi.password {
                writeln!(out, "password = {}", quoted(password.expose()))?;
            }
            writeln!(
                out,
                "# Two capital letters of your country, such as \"DE\" or \"US\": they decide which channels are allowed.\ncountry = {}",
                quoted(&wifi.country)
            )?;
        }
        None => out.push_str(
            "\n# For Wi-Fi remove the # from these lines and fill them in. Country: two capital letters, such as \"DE\" or \"US\".\n\
             # [wifi]\n# ssid = \"name of the network\"\n# password = \"its password\"\n# country = \"DE\"\n",
        ),
    }
    match &seed.membership {
        Membership::Server(Some(authority)) => writeln!(
            out,
            "
# The cluster's own identity. Whoever has it can let boards in and read everything: keep this card to yourself.
# It is moved off this partition at the first start. Nothing here is for editing.
[authority]
ca_certificate = {}
ca_key = {}
join_key = {}",
            block(&authority.ca_certificate),
            block(authority.ca_key.expose()),
            quoted(authority.join_key.expose()),
        ),
        Membership::Server(None) => {
            if seed.moved_authority.is_none() {
                out.push_str("\n# A new server makes the cluster's identity at the first start.\n");
            }
            Ok(())
        }
        Membership::Node { .. } => Ok(()),
    }
}
