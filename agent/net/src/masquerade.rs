//! The way out: packets from pods to addresses outside the cluster leave under the node's own address.

use std::process::Stdio;

use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{Error, Range, conflist::BRIDGE};

/// The whole table `ip minidc` as one transaction: made if missing, emptied, filled.
///
/// Pods of other nodes see the true source. Multicast is left alone: an answer could not find its way back.
pub(crate) fn rules(own: Range, pods: Range) -> String {
    format!(
        "table ip minidc {{}}
delete table ip minidc
table ip minidc {{
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tip saddr {own} ip daddr != {pods} ip daddr != 224.0.0.0/4 oifname != \"{BRIDGE}\" masquerade
\t}}
}}
"
    )
}

/// Hands the rules to nft, which applies all or nothing.
pub(crate) async fn apply(rules: &str) -> Result<(), Error> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| Error::Rules {
            detail: format!("{what}: {error}"),
        }
    };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("start nft"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(rules.as_bytes())
            .await
            .map_err(failed("write to nft"))?;
    }
    let output = child.wait_with_output().await.map_err(failed("wait for nft"))?;
    if output.status.success() {
        return Ok(());
    }
    let detail = String::from_utf8_lossy(&output.stderr);
    Err(Error::Rules {
        detail: detail.lines().next().unwrap_or("nft gave no reason").to_owned(),
    })
}
