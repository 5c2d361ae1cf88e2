//! What can be typed. Parsing only: what a command does is in `commands/`, `control_plane.rs` and `node.rs`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// A portable Raspberry Pi datacenter that plain kubectl drives.
#[derive(Debug, Parser)]
#[command(name = "minidc", version = crate::VERSION, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Configuration file (TOML) [default: /etc/minidc/config.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE", env = "MINIDC_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the control plane, and a node beside it
    Server(ServerArgs),
    /// Run a node: find the control plane, join it, run its pods
    Agent(AgentArgs),
    /// Run what the configuration file says this machine is: server or agent
    Run(CommonArgs),
    /// What a board does with its card at each start, before its network is up
    #[command(subcommand)]
    Boot(BootCommand),
    /// What the clock is judged by
    Clock {
        /// What to do [default: show it]
        #[command(subcommand)]
        command: Option<ClockCommand>,
    },
    /// A rack of virtual Pis on this machine, for trying things out
    #[command(subcommand)]
    Rack(RackCommand),
    /// Tokens that let a new node join (on the control plane)
    #[command(subcommand)]
    Token(TokenCommand),
    /// The nodes of the cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// Container images on every node, without a registry
    #[command(subcommand)]
    Image(ImageCommand),
    /// The network between the nodes
    #[command(subcommand)]
    Net(NetCommand),
    /// Write an image to SD cards, each for one board of a cluster; makes the cluster's identity the first time
    Flash(Box<FlashArgs>),
    /// The file on a card that says what its board is
    #[command(subcommand)]
    Seed(SeedCommand),
    /// The lights of this board
    #[command(subcommand)]
    Led(LedCommand),
    /// Have the pods of this board started elsewhere and power it off; pull the plug when its lights are dark
    Halt,
    /// Let a board show itself by its lights, for a minute
    Locate(LocateArgs),
    /// Print a kubeconfig that works from here; for a cluster flashed here, find it first
    Kubeconfig(KubeconfigArgs),
    /// Show what runs here and how the cluster is
    Status(ClientArgs),
    /// Print the version
    Version,
}

/// Options of every process that runs for long.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CommonArgs {
    /// Name of this node [default: the host name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Directory that survives a reboot [default: /var/lib/minidc]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Log filter, such as info, debug or minidc_link=trace [default: info]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// Options of `minidc server`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerArgs {
    /// Options that server and agent share
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Name of the cluster, used at the first start [default: minidc]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Address of the port for kubectl and nodes [default: 0.0.0.0:6443]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Be the control plane only: run no pods here
    #[arg(long)]
    pub(crate) no_node: bool,
    /// Range of pod addresses [default: 100.64.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) pod_range: Option<String>,
    /// Range of cluster IPs of Services [default: 100.65.0.0/16]
    #[arg(long, value_name = "CIDR")]
    pub(crate) service_range: Option<String>,
}

/// Options of `minidc agent`.
#[derive(Clone, Debug, Args)]
pub(crate) struct AgentArgs {
    /// Options that server and agent share
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// The control plane, where mDNS does not reach it; may be given several times
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) server: Vec<String>,
    /// Join token from `minidc token create`; needed once
    #[arg(long, env = "MINIDC_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File that holds the join token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
}

/// How a command reaches the API.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ClientArgs {
    /// kubeconfig to use [default: the control plane's own, if this is it; else ~/.kube/config]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// `minidc token …`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a new join token
    Create {
        /// Only this node may use it [default: any]
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// How long it can be used: 30m, 24h, 7d
        #[arg(long, default_value = "24h", value_parser = crate::commands::token::parse_duration)]
        ttl: std::time::Duration,
        /// The control plane's data directory [default: /var/lib/minidc]
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// A cluster whose cards were flashed here, in place of the control plane's own
        #[arg(long, value_name = "NAME", conflicts_with = "data")]
        cluster: Option<String>,
    },
    /// List the tokens that were used, and by which node
    List(ClientArgs),
}

/// `minidc led …`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LedCommand {
    /// Walk through all states on the real lights, and name them
    Test {
        /// Seconds for each state
        #[arg(long, default_value_t = 6.0)]
        seconds: f32,
        /// Only this state, such as ready, or this reason, such as disk-pressure
        state: Option<String>,
    },
    /// Draw the lights as the agent on this board switches them, live; Ctrl-C ends it
    Show {
        /// One picture only
        #[arg(long)]
        once: bool,
    },
    /// Leave the lights standing still, as of a board where nobody lives; for systemd, when the agent has ended
    Fault {
        /// Go on holding them until ended
        #[arg(long)]
        hold: bool,
    },
    /// Try two pins that nothing is wired to: what is set is read back, what must be refused is refused
    #[command(hide = true)]
    Suite {
        /// Their GPIO numbers
        #[arg(num_args = 2, required = true)]
        pins: Vec<u8>,
    },
}

/// Options of `minidc locate`.
#[derive(Clone, Debug, Args)]
pub(crate) struct LocateArgs {
    /// Name of the node
    pub(crate) node: String,
    /// Stop it before its time
    #[arg(long)]
    pub(crate) stop: bool,
    /// Options to reach the API
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `minidc node …`
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes with health, LEDs and addresses
    List(ClientArgs),
    /// Remove a node for good: its key is refused from now on, its pods move
    Remove {
        /// Name of the node
        name: String,
        /// Options to reach the API
        #[command(flatten)]
        client: ClientArgs,
    },
    /// On a node that met another or older store: accept it and drop what it does not know
    Adopt,
    /// On a node that minidc is taken off: stop all pods here and remove their network. Its identity and data stay
    Clear,
}

/// `minidc image …`
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Load OCI archives on every node; nodes that are away catch up when they return
    Import {
        /// Archives as `docker save`, `podman save` or `skopeo copy` write them
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// How long to wait for the nodes
        #[arg(long, default_value = "2m", value_parser = crate::commands::token::parse_duration)]
        timeout: std::time::Duration,
        /// Options to reach the API
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List the imported images and the nodes that hold them
    List(ClientArgs),
}

/// `minidc net …`
#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Try pod to pod, pod to service, DNS, outside and packet sizes between all nodes; fails if anything does
    Check(NetCheckArgs),
}

/// Options of `minidc net check`.
#[derive(Clone, Debug, Args)]
pub(crate) struct NetCheckArgs {
    /// Show only what concerns this node; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Vec<String>,
    /// Print in this format instead of a table
    #[arg(long, short, value_name = "FORMAT")]
    pub(crate) output: Option<Output>,
    /// How long to wait for the nodes
    #[arg(long, default_value = "1m", value_parser = crate::commands::token::parse_duration)]
    pub(crate) timeout: std::time::Duration,
    /// Options to reach the API
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For programs
    Json,
}

/// Options of `minidc kubeconfig`.
#[derive(Clone, Debug, Args)]
pub(crate) struct KubeconfigArgs {
    /// Options to reach the API
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Write it to this file (0600) instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Find the rack by mDNS and keep the file's address current until interrupted
    #[arg(long)]
    pub(crate) watch: bool,
    /// The cluster, if cards of several were flashed here
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Address of the server, where mDNS does not reach it
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) server: Option<String>,
    /// How long to look for the rack
    #[arg(long, default_value = "20s", value_parser = crate::commands::token::parse_duration)]
    pub(crate) timeout: std::time::Duration,
}

/// Options of `minidc flash`.
#[derive(Clone, Debug, Args)]
pub(crate) struct FlashArgs {
    /// The image: raw, .xz or .zst
    pub(crate) image: PathBuf,
    /// Where to write it: /dev/sdX of a card in a reader, or an image file [without: list the cards]
    #[arg(long, value_name = "PATH")]
    pub(crate) device: Option<PathBuf>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: String,
    /// server (one board of each cluster) or node
    #[arg(long)]
    pub(crate) role: minidc_image::seed::Role,
    /// Name of the board; with --count that of the first, the others count on from it
    #[arg(long)]
    pub(crate) name: String,
    /// Make this many cards, one after the other: the first with --role, the rest as nodes
    #[arg(long, value_name = "CARDS", default_value_t = 1)]
    pub(crate) count: u32,
    /// Begin with this card of the --count, to go on where an earlier run stopped
    #[arg(long, value_name = "CARD", default_value_t = 1)]
    pub(crate) start: u32,
    /// Wi-Fi network, for boards without a cable; its password is asked for
    #[arg(long, value_name = "SSID", requires = "wifi_country")]
    pub(crate) wifi: Option<String>,
    /// Country whose radio rules hold: DE, US, …
    #[arg(long, value_name = "CC", requires = "wifi")]
    pub(crate) wifi_country: Option<String>,
    /// File whose first line is the Wi-Fi password, in place of the question
    #[arg(long, value_name = "FILE", requires = "wifi")]
    pub(crate) wifi_password_file: Option<PathBuf>,
    /// Public key (.pub) that may log in over SSH as root; without one there is no SSH
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key: Vec<PathBuf>,
    /// Address of the server, for networks without mDNS; may be given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) server: Vec<String>,
    /// Answer every question whether to go on with yes
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `minidc seed …`
#[derive(Debug, Subcommand)]
pub(crate) enum SeedCommand {
    /// Check a minidc.toml, and say what is wrong in which line
    Check {
        /// The file
        file: PathBuf,
        /// The card was started before: its secrets are no longer in the file
        #[arg(long)]
        started: bool,
    },
    /// Print an empty minidc.toml with remarks
    Template,
}

/// `minidc boot …`
#[derive(Debug, Subcommand)]
pub(crate) enum BootCommand {
    /// Let the data partition reach to the end of the card
    Grow {
        /// The whole card, or an image file [default: what this system was started from]
        #[arg(long, value_name = "DISK")]
        card: Option<PathBuf>,
    },
    /// Make of the seed on the card what the rest of the system reads. Exit status 2: the seed is refused and the one before
    /// is used; 3: there is nothing to start
    Seed {
        /// The whole card, or an image file [default: what this system was started from]
        #[arg(long, value_name = "DISK")]
        card: Option<PathBuf>,
        /// Directory that survives a reboot
        #[arg(long, value_name = "DIR", default_value = "/var/lib/minidc")]
        data: PathBuf,
        /// Write all other files below this directory, and leave this machine's host name and clock alone
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
}

/// `minidc clock …`
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ClockCommand {
    /// Say that the clock is right: it never shows an earlier time from then on
    Confirm,
}

/// `minidc rack …`
#[derive(Debug, Subcommand)]
pub(crate) enum RackCommand {
    /// Start a rack of virtual Pis: pi-1 is control plane and node, the others are nodes
    Up {
        /// How many virtual Pis
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
        nodes: u32,
        /// Archive to import on every node, besides the demo image
        #[arg(long, value_name = "FILE")]
        image: Vec<PathBuf>,
        /// Memory of each in MiB, for all its processes together [default: no cap]
        #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(256..))]
        memory: Option<u64>,
        /// Options of every rack command
        #[command(flatten)]
        rack: RackArgs,
    },
    /// Stop a rack and remove everything of it
    Down(RackArgs),
    /// List the racks on this machine
    List,
    /// Cut a virtual Pi's power
    Unplug {
        /// Name of the node, such as pi-3
        node: String,
        /// Options of every rack command
        #[command(flatten)]
        rack: RackArgs,
    },
    /// Give a virtual Pi its power back
    Plug {
        /// Name of the node, such as pi-3
        node: String,
        /// Options of every rack command
        #[command(flatten)]
        rack: RackArgs,
    },
    /// Show the LEDs of all nodes, live on a terminal
    Leds {
        /// Print once instead of following
        #[arg(long)]
        once: bool,
        /// Options of every rack command
        #[command(flatten)]
        rack: RackArgs,
    },
    /// Run a command in a virtual Pi, or a shell
    Exec {
        /// Name of the node, such as pi-2
        node: String,
        /// Program and arguments [default: bash]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
        /// Options of every rack command
        #[command(flatten)]
        rack: RackArgs,
    },
    /// Put a machine with nothing of minidc on the rack's network, as a laptop would be; exec, plug and unplug know it
    Guest {
        /// Its host name, such as laptop
        guest: String,
        /// Options of every rack command
        #[command(flatten)]
        rack: RackArgs,
    },
    /// Write the demo's web server image as an OCI archive
    DemoImage {
        /// The archive to write
        file: PathBuf,
        /// Name of the image in it
        #[arg(long, default_value = crate::commands::rack::DEMO_IMAGE)]
        reference: String,
    },
    /// Process 1 of a virtual Pi; started by `rack up`
    #[command(hide = true)]
    Init {
        /// What the node is to be
        spec: PathBuf,
    },
}

/// Which rack is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct RackArgs {
    /// Name of the rack
    #[arg(long = "rack", value_name = "NAME", default_value = "demo")]
    pub(crate) name: String,
}
