//! `minidc locate NODE`: lets a board show itself, by an annotation of its Node object that the control plane acts on.

use anyhow::bail;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    cli::LocateArgs,
    client::{self, Client},
    config::Config,
    roll_call::LOCATE_ANNOTATION,
};

/// Runs `minidc locate`.
pub(crate) async fn run(arguments: LocateArgs, config: &Config) -> anyhow::Result<()> {
    let LocateArgs { node, stop, client } = arguments;
    let mut api = Client::connect(&client::kubeconfig_path(client.kubeconfig.as_deref(), config)?).await?;
    let wanted = if stop { Value::Null } else { "true".into() };
    let patch = json!({"metadata": {"annotations": {LOCATE_ANNOTATION: wanted}}});
    let (status, body) = api
        .send(
            Method::PATCH,
            &format!("/api/v1/nodes/{node}"),
            "application/merge-patch+json",
            client::full(patch.to_string().into()),
        )
        .await?;
    if status == StatusCode::NOT_FOUND {
        bail!("no node {node:?}: see minidc node list");
    }
    client::expect_success(status, &body)?;
    if stop {
        println!("{node} is as before");
    } else {
        println!("{node} flickers for a minute");
    }
    Ok(())
}
