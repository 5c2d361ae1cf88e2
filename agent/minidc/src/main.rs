//! `minidc`: where all parts meet. This crate parses the command line and the configuration file, starts the parts in
//! order, hands them what they need of each other, and stops them. It decides nothing about pods, nodes or LEDs.
//!
//! # Current limitations
//! - One control plane per cluster.
//! - SIGHUP does nothing: a changed configuration file is read at the next start.

mod addresses;
mod boot;
mod carrier;
mod cli;
mod client;
mod clock;
mod clusters;
mod commands;
mod config;
mod control_plane;
mod desired;
mod directory;
mod drain;
mod lan_names;
mod lights;
mod listener;
mod local;
mod net_check;
mod network_condition;
mod networking;
mod node;
mod reports;
mod roll_call;
mod sessions;
mod stages;

use std::{path::Path, process::ExitCode};

use clap::Parser;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    cli::{Cli, Command, CommonArgs},
    config::{Config, Role, Servers},
};

/// Version of the program, as `minidc version` prints it.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Exit code for a mistake in the configuration file, from sysexits.h; the systemd unit knows it.
const EX_CONFIG: u8 = 78;

fn main() -> ExitCode {
    commands::end_quietly_on_a_broken_pipe();
    let cli = Cli::parse();
    // these make the configuration, so that they must not fail on it
    if let Command::Boot(command) = cli.command {
        return ended(commands::boot::run(command));
    }
    let config_file = cli.config.clone();
    let result = Config::load(cli.config.as_deref())
        .map_err(anyhow::Error::from)
        .and_then(|config| run(cli.command, config, config_file.as_deref()));
    ended(result)
}

fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("minidc: {error:#}");
        // the unit is not started again and again for what only a person can put right
        if error.is::<config::Error>() {
            ExitCode::from(EX_CONFIG)
        } else {
            ExitCode::FAILURE
        }
    })
}

fn run(command: Command, mut config: Config, config_file: Option<&Path>) -> anyhow::Result<ExitCode> {
    match command {
        // process 1 of a virtual Pi must not have threads when it makes its namespaces
        Command::Rack(cli::RackCommand::Init { spec }) => return commands::rack::init(&spec),
        // both work with the bare terminal and its signals
        Command::Flash(arguments) => return commands::flash::run(&arguments),
        Command::Seed(command) => return commands::seed::run(&command),
        Command::Version => {
            println!("minidc {VERSION} (Kubernetes 1.36)");
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let long_running = matches!(command, Command::Server(_) | Command::Agent(_) | Command::Run(_));
    if let Command::Server(cli::ServerArgs { common, .. })
    | Command::Agent(cli::AgentArgs { common, .. })
    | Command::Run(common) = &command
    {
        apply_common(&mut config, common);
    }
    start_log(if long_running { &config.log } else { "warn" })?;
    // one provider for all of rustls' users in this process
    let _ = rustls::crypto::ring::default_provider().install_default();
    // two threads: a Pi Zero has four slow cores and little memory, and nothing here computes for long
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()?;
    let code = runtime.block_on(async {
        match command {
            Command::Server(arguments) => {
                apply_server(&mut config, arguments);
                control_plane::run(config, stop_signal()?).await
            }
            Command::Agent(arguments) => {
                apply_agent(&mut config, arguments);
                node::run_agent(config, stop_signal()?).await
            }
            Command::Run(_) => run_role(config, config_file).await,
            Command::Clock { command } => commands::clock::run(command.is_some(), &config),
            Command::Rack(command) => return commands::rack::run(command).await,
            Command::Token(command) => commands::token::run(command, &config).await,
            Command::Node(command) => commands::node::run(command, &config).await,
            Command::Image(command) => commands::image::run(command, &config).await,
            Command::Net(command) => commands::net::run(command, &config).await,
            Command::Led(command) => commands::led::run(command, config).await,
            Command::Halt => commands::halt::run(config).await,
            Command::Locate(arguments) => commands::locate::run(arguments, &config).await,
            Command::Kubeconfig(arguments) => commands::kubeconfig::run(arguments, &config).await,
            Command::Status(arguments) => commands::status::run(arguments, &config).await,
            Command::Boot(_) | Command::Flash(_) | Command::Seed(_) | Command::Version => Ok(()),
        }
        .map(|()| ExitCode::SUCCESS)
    });
    // a blocking read of a dead disk must not keep the process
    runtime.shutdown_timeout(std::time::Duration::from_secs(3));
    code
}

/// Runs what the configuration says.
async fn run_role(config: Config, config_file: Option<&Path>) -> anyhow::Result<()> {
    match config.role {
        Some(Role::Server) => control_plane::run(config, stop_signal()?).await,
        Some(Role::Agent) => node::run_agent(config, stop_signal()?).await,
        None => match boot::Left::read(&config) {
            Some(left) => node::wait_for_a_person(config, left, stop_signal()?).await,
            None => anyhow::bail!(
                "{} does not say what this machine is. Write for a control plane:\n\n    role = \"server\"\n    cluster.name = \"NAME\"\n\n\
                 or for a node (`minidc token create` on the control plane prints the token):\n\n    role = \"agent\"\n    agent.token = \"minidc1.…\"",
                config_file.unwrap_or(Path::new(config::DEFAULT_PATH)).display()
            ),
        },
    }
}

fn start_log(filter: &str) -> anyhow::Result<()> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| filter.to_owned());
    // `Targets` and not `EnvFilter`: the latter brings a regular-expression engine, a megabyte of memory on every Pi
    let targets: Targets = filter
        .parse()
        .map_err(|error| anyhow::anyhow!("log filter {filter:?}: {error}"))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false);
    tracing_subscriber::registry().with(lines).with(targets).init();
    Ok(())
}

/// Cancelled by SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        cancelled.cancel();
    });
    Ok(token)
}

fn apply_common(config: &mut Config, arguments: &CommonArgs) {
    let CommonArgs { name, data, log } = arguments.clone();
    config.name = name.or(config.name.take());
    if let Some(data) = data {
        config.data = data;
    }
    if let Some(log) = log {
        config.log = log;
    }
}

fn apply_server(config: &mut Config, arguments: cli::ServerArgs) {
    let cli::ServerArgs {
        cluster,
        listen,
        no_node,
        pod_range,
        service_range,
        common: _,
    } = arguments;
    if let Some(cluster) = cluster {
        config.cluster.name = cluster;
    }
    if let Some(listen) = listen {
        config.server.listen = listen;
    }
    if no_node {
        config.server.node = false;
    }
    if let Some(range) = pod_range {
        config.server.pod_range = range;
    }
    if let Some(range) = service_range {
        config.server.service_range = range;
    }
}

fn apply_agent(config: &mut Config, arguments: cli::AgentArgs) {
    let cli::AgentArgs {
        server,
        token,
        token_file,
        common: _,
    } = arguments;
    if !server.is_empty() {
        config.agent.server = Servers(server);
    }
    if token.is_some() || token_file.is_some() {
        (config.agent.token, config.agent.token_file) = (token, token_file);
    }
}
