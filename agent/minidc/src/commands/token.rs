//! `minidc token …`: made on the machine that holds the cluster's identity; the control plane learns of a token when
//! it is used.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::{
    cli::TokenCommand,
    client::{self, Client},
    clusters::Clusters,
    config::Config,
};

/// Reads `90s`, `30m`, `24h` or `7d`.
///
/// # Errors
/// With a sentence that shows the form.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 90s, 30m, 24h or 7d");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// Runs one `token` subcommand.
pub(crate) async fn run(command: TokenCommand, config: &Config) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create {
            node,
            ttl,
            data,
            cluster,
        } => {
            let data = data.unwrap_or_else(|| config.data.clone());
            let flashed = match cluster {
                Some(name) => Some(Clusters::of_person()?.get(&name)?),
                None => None,
            };
            let directory = flashed
                .as_ref()
                .map_or_else(|| data.join("server/pki"), |cluster| cluster.directory().to_owned());
            let identity = minidc_link::pki::ClusterIdentity::load(&directory).with_context(|| {
                format!(
                    "no cluster identity in {}: run this on the control plane, or give --data DIR or --cluster NAME",
                    directory.display()
                )
            })?;
            println!(
                "{}",
                identity.mint_token(
                    node.as_deref(),
                    minidc_link::clock::system().saturating_add(ttl.as_secs())
                )?
            );
            Ok(())
        }
        TokenCommand::List(client) => {
            let mut api = Client::connect(&client::kubeconfig_path(client.kubeconfig.as_deref(), config)?).await?;
            let tokens = api.get("/apis/minidc.dev/v1/jointokens").await?;
            let mut rows = Vec::new();
            for token in tokens["items"].as_array().into_iter().flatten() {
                let text = |pointer: &str| token.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
                rows.push(vec![
                    text("/metadata/name"),
                    text("/spec/usedBy/node"),
                    text("/metadata/creationTimestamp"),
                    text("/spec/expires"),
                ]);
            }
            super::print_table(&["ID", "USED BY", "FIRST USED", "EXPIRES"], &rows);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(parse_duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for wrong in [
            "",
            "m",
            "30",
            "3x",
            "-1h",
            "99999999999999999999d",
            "18446744073709551615d",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
