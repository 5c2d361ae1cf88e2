//! `minidc rack …`: a cluster on virtual Pis. The crate `minidc_rack` knows nothing of clusters; what makes the boards one
//! is here.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use minidc_kubelet::archive::{File, ImageBuilder};
use minidc_link::pki::ClusterIdentity;
use minidc_rack::{BoxError, Lines, NodeSpec, PodRoute, Power, Progress, Rack, Role, UpOptions};
use serde_json::Value;
use tokio::{runtime::Handle, task::spawn_blocking};

use super::{image, kubeconfig, node};
use crate::{cli::RackCommand, client::Client};

/// Name of the web server's image that every rack starts with.
pub(crate) const DEMO_IMAGE: &str = "minidc.local/web:1";
/// Programs that the demo image has, all of them busybox.
const APPLETS: &[&str] = &[
    "sh", "ash", "cat", "cp", "cut", "date", "df", "echo", "env", "false", "free", "grep", "head", "hostname", "httpd",
    "id", "ip", "kill", "ln", "ls", "mkdir", "mount", "mv", "nc", "netstat", "nslookup", "ping", "printenv", "printf",
    "ps", "pwd", "rm", "sed", "seq", "sleep", "sort", "stat", "tail", "tar", "test", "top", "touch", "tr", "true",
    "uname", "vi", "wc", "wget", "which", "whoami", "yes",
];
/// How long the control plane may take to answer, and a node to be Ready.
const PATIENCE: Duration = Duration::from_secs(60);
const SERVER_KUBECONFIG: &str = "/var/lib/minidc/server/admin.kubeconfig";

/// Runs process 1 of a virtual Pi.
pub(crate) fn init(spec: &Path) -> anyhow::Result<ExitCode> {
    minidc_rack::init(spec)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs one `rack` subcommand.
pub(crate) async fn run(command: RackCommand) -> anyhow::Result<ExitCode> {
    match command {
        RackCommand::Up {
            nodes,
            image,
            memory,
            rack,
        } => {
            let mut options = UpOptions::new(&rack.name, nodes, std::env::current_exe().context("find this program")?);
            options.memory = memory.map(|mebibytes| mebibytes << 20);
            up(options, image).await?;
        }
        RackCommand::Down(rack) => {
            let name = rack.name.clone();
            let removed = spawn_blocking(move || minidc_rack::down(&name, &Lines::new(std::io::stdout()))).await??;
            if !removed {
                println!("there is no rack {:?}", rack.name);
            }
        }
        RackCommand::List => list(),
        RackCommand::Unplug { node, rack } => {
            let rack = Rack::open(&rack.name)?;
            let index = rack.node_index(&node)?;
            spawn_blocking(move || rack.unplug(index)).await??;
            println!("{node} has no power now");
        }
        RackCommand::Plug { node, rack } => {
            let rack = Rack::open(&rack.name)?;
            let index = rack.node_index(&node)?;
            spawn_blocking(move || rack.plug(index, &Lines::new(std::io::stdout()))).await??;
            println!("{node} has power again");
        }
        RackCommand::Leds { once, rack } => {
            let rack = Rack::open(&rack.name)?;
            spawn_blocking(move || leds(&rack, once)).await??;
        }
        RackCommand::Exec { node, command, rack } => {
            let rack = Rack::open(&rack.name)?;
            let index = rack.node_index(&node)?;
            let status = spawn_blocking(move || rack.exec(index, &command)).await??;
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            return Ok(ExitCode::from(code));
        }
        RackCommand::Guest { guest, rack } => {
            let mut rack = Rack::open(&rack.name)?;
            let name = guest.clone();
            let address = spawn_blocking(move || {
                let index = rack.add_guest(&name, &Lines::new(std::io::stdout()))?;
                Ok::<_, minidc_rack::Error>(rack.node_address(index))
            })
            .await??;
            println!("{guest} is on the rack's network with the address {address}");
        }
        RackCommand::DemoImage { file, reference } => {
            spawn_blocking(move || write_demo_image(&file, &reference)).await??;
        }
        RackCommand::Init { .. } => bail!("rack init is run by rack up only"),
    }
    Ok(ExitCode::SUCCESS)
}

fn list() {
    let racks = minidc_rack::list();
    if racks.is_empty() {
        println!("no racks on this machine: start one with minidc rack up");
        return;
    }
    let rows: Vec<Vec<String>> = racks
        .into_iter()
        .map(|rack| {
            let state = if rack.healthy {
                "running"
            } else {
                "broken: minidc rack down removes it"
            };
            vec![
                rack.name,
                rack.nodes.to_string(),
                rack.powered.to_string(),
                state.to_owned(),
            ]
        })
        .collect();
    super::print_table(&["NAME", "NODES", "POWERED", "STATE"], &rows);
}

fn leds(rack: &Rack, once: bool) -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    let terminal = output.is_terminal();
    if once {
        print_leds(rack, terminal);
        return Ok(());
    }
    // Ctrl-C ends the program, which is all that it has to do
    static STOP: AtomicBool = AtomicBool::new(false);
    minidc_rack::follow_leds(rack, &mut output, terminal, &STOP)?;
    STOP.store(true, Ordering::Relaxed);
    Ok(())
}

fn print_leds(rack: &Rack, colour: bool) {
    let now = jiff::Timestamp::now().as_millisecond();
    for leds in rack.leds() {
        println!(
            "{}",
            minidc_rack::led_line(&leds, u64::try_from(now).unwrap_or(0), colour)
        );
    }
}

async fn up(options: UpOptions, images: Vec<PathBuf>) -> anyhow::Result<()> {
    let begin = Instant::now();
    let progress = Arc::new(Lines::new(std::io::stdout()));
    let name = options.name.clone();
    let built = {
        let progress = Arc::clone(&progress);
        spawn_blocking(move || {
            let configure = |rack: &Rack, index: u32| configure(rack, index, &*progress);
            minidc_rack::up(&options, &configure, &*progress)
        })
        .await??
    };
    let rack = built.rack;
    let kubeconfig = rack_kubeconfig(&rack);
    // a rack whose start was cut short after its boards were up has no kubeconfig yet: the rest is done now
    if built.already_running && kubeconfig.exists() {
        println!(
            "rack {name} is already running with {} nodes; nothing was changed",
            rack.nodes()
        );
        return summary(&rack, &kubeconfig).await;
    }
    wait_for_control_plane(&rack).await?;
    let text = std::fs::read_to_string(rack.node_path(1, SERVER_KUBECONFIG))?;
    let mut api = Client::connect(&rack.node_path(1, SERVER_KUBECONFIG)).await?;
    wait_until_ready(&mut api, &rack, &*progress).await?;

    let start = Instant::now();
    let demo = kubeconfig.with_file_name("web.tar");
    let file = demo.clone();
    spawn_blocking(move || write_demo_image(&file, DEMO_IMAGE)).await??;
    for file in std::iter::once(&demo).chain(&images) {
        let archive = image::Archive::examine(file).await?;
        image::upload(&mut api, &archive).await?;
        let spread = image::wait_for_nodes(&mut api, &archive.name, PATIENCE).await?;
        if let Some((node, message)) = spread.failed.first() {
            bail!("{node} could not load {}: {message}", file.display());
        }
        progress.done(
            &format!("image {} on {} nodes", archive.references.join(", "), spread.held.len()),
            start.elapsed(),
        );
    }
    // last: its being there says that the rack is complete
    kubeconfig::write_private(&kubeconfig, &text)?;
    progress.done("the whole rack", begin.elapsed());
    println!();
    summary(&rack, &kubeconfig).await
}

/// Where the rack's kubeconfig lies on the host.
fn rack_kubeconfig(rack: &Rack) -> PathBuf {
    rack.node_dir(1).with_file_name("kubeconfig")
}

/// What the newcomer needs to know.
async fn summary(rack: &Rack, kubeconfig: &Path) -> anyhow::Result<()> {
    match Client::connect(kubeconfig).await {
        Ok(mut api) => node::print(&mut api).await?,
        Err(error) => println!("the control plane does not answer: {error:#}"),
    }
    println!();
    print_leds(rack, std::io::stdout().is_terminal());
    println!("\nexport KUBECONFIG={}\n", kubeconfig.display());
    println!("Try:");
    println!("  kubectl get nodes -o wide");
    println!("  kubectl apply -f tests/manifests/web.yaml && kubectl get deploy,rs,pods -o wide");
    let last = rack.node_name(rack.nodes());
    println!("  {} rack unplug {last}", std::env::current_exe()?.display());
    Ok(())
}

/// A node's configuration. Asking for a second node's waits until the first gives out tokens.
fn configure(rack: &Rack, index: u32, progress: &dyn Progress) -> Result<NodeSpec, BoxError> {
    let (name, rack_name) = (rack.node_name(index), rack.name());
    // each rack has addresses of its own, so that the host can route those of several racks
    let (pods, services) = (64 + rack.subnet() % 32, 96 + rack.subnet() % 32);
    // a virtual Pi must leave the lights of this machine alone
    let common = format!("name = \"{name}\"\n\n[cluster]\nname = \"{rack_name}\"\n\n[leds]\ndriver = \"fake\"\n");
    if index == 1 {
        let ranges = format!("pod-range = \"100.{pods}.0.0/16\"\nservice-range = \"100.{services}.0.0/16\"\n");
        let config = format!("{common}\n[server]\n{ranges}");
        return Ok(NodeSpec::new(Role::Server, config));
    }
    if index == 2 {
        let start = Instant::now();
        Handle::current().block_on(wait_for_control_plane(rack))?;
        progress.done("pi-1: control plane answers", start.elapsed());
    }
    let identity = ClusterIdentity::load(&rack.node_path(1, "/var/lib/minidc/server/pki"))?;
    // a rack that is plugged together months later must still find its own token good
    let token = identity.mint_token(Some(&name), minidc_link::clock::system() + 7 * 86_400)?;
    Ok(NodeSpec::new(
        Role::Agent,
        format!("{common}\n[agent]\ntoken = \"{token}\"\n"),
    ))
}

async fn wait_for_control_plane(rack: &Rack) -> anyhow::Result<()> {
    let path = rack.node_path(1, SERVER_KUBECONFIG);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let attempt = async {
            let mut api = Client::connect(&path).await?;
            api.send(
                http::Method::GET,
                "/readyz",
                "text/plain",
                crate::client::full(Vec::new()),
            )
            .await
        };
        match attempt.await {
            Ok((status, _)) if status.is_success() => return Ok(()),
            _ if Instant::now() < deadline && rack.power(1) == Power::On => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok((status, _)) => bail!("the control plane on pi-1 is not ready: {status}"),
            Err(error) => {
                return Err(error.context(format!(
                    "the control plane on pi-1 does not answer; its log is {}",
                    rack.log_path(1, "minidc").display()
                )));
            }
        }
    }
}

/// Waits for each node, and routes its pods from this machine.
async fn wait_until_ready(api: &mut Client, rack: &Rack, progress: &dyn Progress) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut waiting: Vec<u32> = (1..=rack.nodes()).collect();
    while !waiting.is_empty() {
        let nodes = api.get("/api/v1/nodes").await?;
        let mut routes = Vec::new();
        waiting.retain(|index| {
            let name = rack.node_name(*index);
            let nodes = nodes["items"].as_array();
            let node = nodes
                .into_iter()
                .flatten()
                .find(|node| node["metadata"]["name"] == name.as_str());
            let range = node
                .and_then(|node| node.pointer("/spec/podCIDR"))
                .and_then(Value::as_str);
            match (node, range) {
                (Some(node), Some(range)) if image::is_ready(node) => {
                    routes.push(PodRoute {
                        range: range.to_owned(),
                        via: rack.node_address(*index),
                    });
                    progress.done(&format!("{name}: Ready"), start.elapsed());
                    false
                }
                _ => true,
            }
        });
        rack.add_pod_routes(&routes)?;
        if let Some(index) = waiting.first() {
            if start.elapsed() > PATIENCE {
                let log = rack.log_path(*index, "minidc");
                bail!(
                    "{} is not Ready after {PATIENCE:?}; its log is {}",
                    rack.node_name(*index),
                    log.display()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Writes the archive of a small web server that answers with its host name: busybox, and nothing else.
fn write_demo_image(file: &Path, reference: &str) -> anyhow::Result<()> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find_map(|path| std::fs::read(path).ok());
    let busybox = busybox.context("busybox is missing: apt-get install -y busybox-static")?;
    let mut image = ImageBuilder::new(reference)
        .environment("PATH=/bin")
        .command([
            "/bin/sh",
            "-c",
            "hostname >/www/index.html && exec httpd -f -vv -p 8080 -h /www",
        ])
        .file(File::program("/bin/busybox", busybox))
        .file(File::data("/etc/passwd", "root:x:0:0:root:/:/bin/sh\n"))
        .file(File::data("/www/about", "a small web server of minidc's demo rack\n"));
    for applet in APPLETS {
        image = image.file(File::link(format!("/bin/{applet}"), "busybox"));
    }
    let attempt = || format!("write {}", file.display());
    let output = std::fs::File::create(file).with_context(attempt)?;
    image.write_to(std::io::BufWriter::new(output)).with_context(attempt)
}
