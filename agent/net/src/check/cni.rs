//! The CNI plugins of the node, called as containerd calls them (CNI specification 0.4.0, sections "Parameters" and
//! "Network configuration lists").

use std::{
    ffi::OsString,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::Error;

/// Longest run of one plugin; portmap waits for the lock of iptables, which a busy node holds for seconds.
const LIMIT: Duration = Duration::from_secs(30);
/// Name of the interface inside the namespace.
const INTERFACE: &str = "eth0";

/// The pod network's plugins.
#[derive(Clone, Debug)]
pub struct Cni {
    /// The configuration list.
    pub conflist: PathBuf,
    /// Directories with plugins, the first that has one counts.
    pub plugins: Vec<PathBuf>,
}

/// What is plugged in.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'a> {
    /// Name under which addresses are reserved, unique on the node.
    pub container: &'a str,
    /// The network namespace; none if it is gone.
    pub namespace: Option<&'a Path>,
    /// Ports of the node that lead here.
    pub ports: &'a [PortMapping],
}

/// A port of the node that leads to a port of the container.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port of the node.
    pub host_port: u16,
    /// Port of the container.
    pub container_port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
}

impl Cni {
    /// Plugs the namespace in and gives its address.
    ///
    /// # Errors
    /// [`Error::Cni`] with what the plugin says.
    pub async fn add(&self, attachment: Attachment<'_>) -> Result<IpAddr, Error> {
        let list = self.list()?;
        let mut result = Value::Null;
        for plugin in plugins(&list) {
            result = self.call("ADD", plugin, &list, &result, attachment).await?;
        }
        address(&result).ok_or_else(|| Error::Cni {
            attempt: format!("plug in {}", attachment.container),
            detail: "the plugins gave it no address".into(),
        })
    }

    /// Unplugs it and gives its address back. Works also when the namespace is gone, or was never plugged in.
    ///
    /// # Errors
    /// [`Error::Cni`] with what the plugin says; later plugins are called all the same.
    pub async fn delete(&self, attachment: Attachment<'_>) -> Result<(), Error> {
        let list = self.list()?;
        let mut first = Ok(());
        for plugin in plugins(&list).rev() {
            let done = self.call("DEL", plugin, &list, &Value::Null, attachment).await;
            first = first.and(done.map(drop));
        }
        first
    }

    fn list(&self) -> Result<Value, Error> {
        let failed = |detail: String| Error::Cni {
            attempt: format!("read {}", self.conflist.display()),
            detail,
        };
        let bytes = std::fs::read(&self.conflist).map_err(|error| failed(error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
    }

    async fn call(
        &self,
        command: &str,
        plugin: &Value,
        list: &Value,
        previous: &Value,
        attachment: Attachment<'_>,
    ) -> Result<Value, Error> {
        let name = plugin["type"].as_str().unwrap_or_default();
        let failed = |detail: String| Error::Cni {
            attempt: format!("{command} {} with the CNI plugin {name}", attachment.container),
            detail,
        };
        let program = self.program(name).ok_or_else(|| {
            let places: Vec<_> = self.plugins.iter().map(|place| place.display().to_string()).collect();
            failed(format!("there is no such plugin in {}", places.join(" or ")))
        })?;
        let input = input(plugin, list, previous, attachment.ports);
        let path = std::env::join_paths(&self.plugins).unwrap_or_default();
        let output = run(&program, command, attachment, &path, input.to_string().as_bytes())
            .await
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            // DEL says nothing
            return Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null));
        }
        Err(failed(complaint(&output)))
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        let mut places = self.plugins.iter().map(|place| place.join(name));
        places.find(|program| program.is_file())
    }
}

fn plugins(list: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    list["plugins"].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

/// What a plugin reads: its entry of the list, what it has in common with the others, and what the one before it said.
fn input(plugin: &Value, list: &Value, previous: &Value, ports: &[PortMapping]) -> Value {
    let mut input = plugin.clone();
    let maps_ports = plugin["capabilities"]["portMappings"] == true;
    if let Some(fields) = input.as_object_mut() {
        fields.remove("capabilities");
        fields.insert("cniVersion".into(), list["cniVersion"].clone());
        fields.insert("name".into(), list["name"].clone());
        if maps_ports && !ports.is_empty() {
            fields.insert("runtimeConfig".into(), json!({"portMappings": ports}));
        }
        if !previous.is_null() {
            fields.insert("prevResult".into(), previous.clone());
        }
    }
    input
}

async fn run(
    program: &Path,
    command: &str,
    attachment: Attachment<'_>,
    path: &OsString,
    input: &[u8],
) -> io::Result<Output> {
    let namespace = attachment.namespace.map_or_else(Default::default, Path::as_os_str);
    let mut child = Command::new(program)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", attachment.container)
        .env("CNI_NETNS", namespace)
        .env("CNI_IFNAME", INTERFACE)
        .env("CNI_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).await?;
    }
    tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .unwrap_or_else(|_| {
            let message = format!("not done within {} s", LIMIT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
}

/// What a failed plugin says: `msg` and `details` of its JSON, else the first line of its standard error.
fn complaint(output: &Output) -> String {
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match (said["msg"].as_str(), said["details"].as_str()) {
        (Some(message), Some(details)) if !details.is_empty() => format!("{message}: {details}"),
        (Some(message), _) => message.to_owned(),
        _ => {
            let text = String::from_utf8_lossy(&output.stderr);
            let line = text.lines().next().filter(|line| !line.is_empty());
            line.map_or_else(|| format!("it ended with {}", output.status), str::to_owned)
        }
    }
}

fn address(result: &Value) -> Option<IpAddr> {
    let text = result["ips"][0]["address"].as_str()?;
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_reads_its_entry_with_the_lists_name_and_the_result_so_far() {
        let list: Value = serde_json::from_str(&crate::conflist::text("100.64.2.0/24".parse().unwrap(), 1450)).unwrap();
        let mapping = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: "tcp",
        };
        let read: Vec<Value> = plugins(&list)
            .map(|plugin| input(plugin, &list, &json!({"so": "far"}), std::slice::from_ref(&mapping)))
            .collect();
        assert_eq!(read[0]["type"], "bridge");
        assert_eq!(read[0]["mtu"], 1450);
        assert_eq!(
            (&read[0]["name"], &read[0]["cniVersion"]),
            (&json!("minidc"), &json!("0.4.0"))
        );
        assert_eq!(
            read[0]["runtimeConfig"],
            Value::Null,
            "it said nothing of port mappings"
        );
        assert_eq!(read[1]["capabilities"], Value::Null);
        assert_eq!(
            read[1]["runtimeConfig"],
            json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]})
        );
        assert_eq!(read[1]["prevResult"]["so"], "far");
        assert_eq!(
            input(&list["plugins"][1], &list, &Value::Null, &[])["prevResult"],
            Value::Null
        );
    }

    #[test]
    fn address_is_that_of_the_result() {
        assert_eq!(
            address(&json!({"ips": [{"version": "4", "address": "100.64.2.7/24"}]})),
            "100.64.2.7".parse().ok()
        );
        assert_eq!(address(&json!({"ips": []})), None);
    }
}
