//! What a board does with its card at each start: the real program on image files and directories.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use minidc_image::{
    cards::files,
    device::DeviceFile,
    fat,
    layout::{self, DATA, SELECTOR, Table},
    sample,
    seed::{self, Authority, Membership, Secret, Seed, Stage, Wifi},
};
use minidc_link::pki::ClusterIdentity;

/// A board: its card as an image file, its data partition and its root as directories.
struct Board {
    place: tempfile::TempDir,
}

fn server(cluster: &str) -> Seed {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("pki");
    ClusterIdentity::load_or_create(&directory, cluster).unwrap();
    let text = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    Seed {
        cluster: cluster.into(),
        node: "pi-1".into(),
        membership: Membership::Server(Some(Authority {
            ca_certificate: text("ca.crt"),
            ca_key: Secret::new(text("ca.key")),
            join_key: Secret::new(text("join.key").trim()),
        })),
        moved_authority: None,
        servers: Vec::new(),
        wifi: Some(Wifi {
            ssid: "attic".into(),
            password: Some(Secret::new("correct horse")),
            country: "DE".into(),
        }),
        ssh_keys: Vec::new(),
        time: Some("2026-05-17T12:00:00Z".parse().unwrap()),
    }
}

fn node(cluster: &str) -> Seed {
    let place = tempfile::tempdir().unwrap();
    let identity = ClusterIdentity::load_or_create(&place.path().join("pki"), cluster).unwrap();
    Seed {
        node: "pi-2".into(),
        membership: Membership::Node {
            token: Some(Secret::new(
                identity.mint_token(Some("pi-2"), 4_000_000_000).unwrap().to_string(),
            )),
            ca_pin: Some(identity.pin().to_string()),
        },
        servers: vec!["192.168.1.10".into(), "pi-1.local:6443".into()],
        wifi: None,
        ssh_keys: vec![
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@laptop".into(),
        ],
        ..server(cluster)
    }
}

impl Board {
    fn new(seed: &Seed) -> Self {
        let board = Self {
            place: tempfile::tempdir().unwrap(),
        };
        fs::write(board.card(), sample::image(&files(seed)).unwrap()).unwrap();
        fs::create_dir(board.data()).unwrap();
        fs::create_dir_all(board.root().join("etc")).unwrap();
        board
    }

    fn card(&self) -> PathBuf {
        self.place.path().join("card.img")
    }

    fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    fn root(&self) -> PathBuf {
        self.place.path().join("root")
    }

    fn minidc(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_minidc"))
            .args(arguments)
            .env_remove("RUST_LOG")
            .output()
            .unwrap()
    }

    /// The root is in memory on a board: it is new at each start.
    fn start(&self) -> (i32, String) {
        fs::remove_dir_all(self.root()).unwrap();
        fs::create_dir_all(self.root().join("etc")).unwrap();
        let path = |path: PathBuf| path.display().to_string();
        let (card, data, root) = (path(self.card()), path(self.data()), path(self.root()));
        let output = self.minidc(&["boot", "seed", "--card", &card, "--data", &data, "--root", &root]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap(), said)
    }

    fn on_card(&self, name: &str) -> Option<String> {
        let mut target = DeviceFile::open(&self.card(), false).unwrap();
        let selector = *Table::read(&mut target).unwrap().get(SELECTOR).unwrap();
        fat::read(&mut target, &selector, name)
            .unwrap()
            .map(|contents| String::from_utf8(contents).unwrap())
    }

    fn edit(&self, from: &str, to: &str) {
        let text = self.on_card(seed::FILE).unwrap();
        assert!(text.contains(from), "{text}");
        let mut target = DeviceFile::open(&self.card(), false).unwrap();
        let selector = *Table::read(&mut target).unwrap().get(SELECTOR).unwrap();
        let file = fat::File {
            name: seed::FILE.into(),
            contents: text.replace(from, to).into_bytes(),
        };
        fat::write(&mut target, &selector, &[file]).unwrap();
    }

    fn written(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root().join(path)).ok()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_server_gets_its_name_its_network_and_the_identity_of_its_cluster() {
    let seed = server("rack1");
    let board = Board::new(&seed);
    let (code, said) = board.start();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("this board is pi-1, server of cluster rack1"), "{said}");
    assert_eq!(board.written("etc/hostname").unwrap(), "pi-1\n");
    assert!(board.written("etc/hosts").unwrap().contains("127.0.1.1 pi-1\n"));
    let config: toml::Table = board.written("run/minidc-boot/config.toml").unwrap().parse().unwrap();
    assert_eq!(config["role"].as_str(), Some("server"));
    assert_eq!(config["name"].as_str(), Some("pi-1"));
    assert_eq!(config["cluster"]["name"].as_str(), Some("rack1"));
    assert_eq!(
        fs::read_link(board.root().join("etc/minidc/config.toml")).unwrap(),
        Path::new("/run/minidc-boot/config.toml")
    );
    let wireless = "etc/wpa_supplicant/wpa_supplicant-wlan0.conf";
    assert!(board.written(wireless).unwrap().contains("psk=\"correct horse\""));
    for secret in [
        board.root().join(wireless),
        board.data().join("server/pki/ca.key"),
        board.data().join("boot/seed.toml"),
    ] {
        assert_eq!(mode(&secret), 0o600, "{}", secret.display());
    }
    assert_eq!(
        board.written("run/minidc-boot/authorized_keys"),
        None,
        "no keys, no SSH"
    );
    assert_eq!(board.on_card(seed::PROBLEM_FILE), None);
    let kept = ClusterIdentity::load(&board.data().join("server/pki")).unwrap();
    let left = Seed::parse(&board.on_card(seed::FILE).unwrap(), Stage::Joined).unwrap();
    assert_eq!(left.membership, Membership::Server(None));
    assert_eq!(left.moved_authority, Some(kept.pin().to_string()));
    let stages = board.written("run/minidc-boot/stage").unwrap();
    assert!(
        stages.contains("seed-read ") && stages.contains("seed-done "),
        "{stages}"
    );
    // the identity outlives the root, and the card has nothing to give any more
    let (code, said) = board.start();
    assert_eq!(code, 0, "{said}");
    assert_eq!(board.written("etc/hostname").unwrap(), "pi-1\n");
}

#[test]
fn a_node_gets_its_token_its_servers_and_those_who_may_log_in() {
    let board = Board::new(&node("rack1"));
    let token = board.on_card(seed::FILE).unwrap();
    let token = token
        .lines()
        .find_map(|line| line.strip_prefix("token = "))
        .unwrap()
        .trim_matches('"')
        .to_owned();
    for start in ["first", "second"] {
        let (code, said) = board.start();
        assert_eq!(code, 0, "{start} start: {said}");
        let config: toml::Table = board.written("run/minidc-boot/config.toml").unwrap().parse().unwrap();
        assert_eq!(config["role"].as_str(), Some("agent"));
        assert_eq!(config["agent"]["server"][0].as_str(), Some("192.168.1.10"));
        let file = Path::new(config["agent"]["token-file"].as_str().unwrap());
        assert_eq!(
            (fs::read_to_string(file).unwrap().trim(), mode(file)),
            (token.as_str(), 0o600)
        );
        let keys = board.written("run/minidc-boot/authorized_keys").unwrap();
        assert!(keys.starts_with("ssh-ed25519 ") && keys.lines().count() == 1, "{keys}");
        assert_eq!(board.written("etc/wpa_supplicant/wpa_supplicant-wlan0.conf"), None);
        assert!(!board.on_card(seed::FILE).unwrap().contains(&token));
    }
}

#[test]
fn a_mistake_is_told_beside_the_seed_and_disappears_when_it_is_corrected() {
    let board = Board::new(&server("rack1"));
    assert_eq!(board.start().0, 0);
    board.edit("country = \"DE\"", "country = \"Germany\"");
    let (code, said) = board.start();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("wifi.country"), "{said}");
    let text = board.on_card(seed::PROBLEM_FILE).unwrap();
    assert!(
        text.contains("goes on with what it was told before") && text.contains("wifi.country"),
        "{text}"
    );
    assert_eq!(board.written("run/minidc-boot/problem").unwrap(), "seed\n");
    assert_eq!(
        board.written("etc/hostname").unwrap(),
        "pi-1\n",
        "the seed before goes on"
    );
    board.edit("country = \"Germany\"", "country = \"AT\"");
    let (code, said) = board.start();
    assert_eq!(code, 0, "{said}");
    assert_eq!(board.on_card(seed::PROBLEM_FILE), None);
    assert_eq!(board.written("run/minidc-boot/problem"), None);
    let wireless = board.written("etc/wpa_supplicant/wpa_supplicant-wlan0.conf").unwrap();
    assert!(wireless.contains("country=AT"), "{wireless}");
}

#[test]
fn a_board_that_never_had_a_good_seed_waits_and_says_why() {
    let board = Board::new(&server("rack1"));
    board.edit("role = \"server\"", "role = \"boss\"");
    let (code, said) = board.start();
    assert_eq!(code, 3, "{said}");
    assert!(board.on_card(seed::PROBLEM_FILE).unwrap().contains("did not start"));
    assert!(
        board.on_card(seed::FILE).unwrap().contains("PRIVATE KEY"),
        "nothing is taken from a refused seed"
    );
    assert_eq!(board.written("run/minidc-boot/config.toml"), None);
    assert!(!board.data().join("server").exists());
    // the long-running process shows it instead of failing; here there is none, so that it ends with what to write
    let config = board.place.path().join("empty.toml");
    fs::write(
        &config,
        format!("run = {:?}\n", board.place.path().join("elsewhere/minidc")),
    )
    .unwrap();
    let output = board.minidc(&["--config", &config.display().to_string(), "run"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("role = \"server\"") && said.contains("empty.toml"),
        "{said}"
    );
    let run = board.root().join("run/minidc");
    fs::write(&config, format!("run = {run:?}\n")).unwrap();
    let output = board.minidc(&["--config", &config.display().to_string(), "status"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("\"boss\" is not a role"), "{said}");
}

#[test]
fn a_board_says_of_a_wrong_token_what_a_check_on_a_computer_says() {
    let board = Board::new(&node("rack1"));
    board.edit("name = \"pi-2\"", "name = \"pi-3\"");
    let file = board.place.path().join("minidc.toml");
    fs::write(&file, board.on_card(seed::FILE).unwrap()).unwrap();
    let checked = board.minidc(&["seed", "check", &file.display().to_string()]);
    let checked = String::from_utf8(checked.stdout).unwrap();
    let (_, problem) = checked.trim().split_once("minidc.toml: ").unwrap();
    assert!(
        problem.contains(": token: it is for a board with name = \"pi-2\""),
        "{checked}"
    );
    let (code, said) = board.start();
    assert_eq!(code, 3, "{said}");
    let told = board.on_card(seed::PROBLEM_FILE).unwrap();
    assert!(told.contains(problem), "{told}\n{problem}");
}

#[test]
fn a_board_with_nothing_to_start_says_so_by_its_lights_and_starts_nothing() {
    let board = Board::new(&server("rack1"));
    board.edit("role = \"server\"", "role = \"boss\"");
    assert_eq!(board.start().0, 3);
    let (run, data) = (board.root().join("run/minidc"), board.data());
    let config = board.place.path().join("config.toml");
    fs::write(
        &config,
        format!("name = \"pi-1\"\nrun = {run:?}\ndata = {data:?}\n[leds]\ndriver = \"fake\"\n"),
    )
    .unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_minidc"))
        .args(["--config", &config.display().to_string(), "run"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begin = std::time::Instant::now();
    let lights = loop {
        let lights = fs::read_to_string(run.join("leds.json")).unwrap_or_default();
        if lights.contains("\"seed\"") || begin.elapsed().as_secs() >= 60 {
            break lights;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(
        lights.contains("\"refused\"") && lights.contains("\"seed\""),
        "{lights}"
    );
    assert!(!data.join("server").exists() && !data.join("agent").exists());
}

#[test]
fn the_seed_of_another_cluster_does_not_make_a_board_somebody_else() {
    let board = Board::new(&server("rack1"));
    assert_eq!(board.start().0, 0);
    fs::write(board.card(), sample::image(&files(&server("rack2"))).unwrap()).unwrap();
    let (code, said) = board.start();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("this card belongs to cluster \"rack1\""), "{said}");
    let config: toml::Table = board.written("run/minidc-boot/config.toml").unwrap().parse().unwrap();
    assert_eq!(config["cluster"]["name"].as_str(), Some("rack1"));
    assert_eq!(
        ClusterIdentity::load(&board.data().join("server/pki"))
            .unwrap()
            .cluster(),
        "rack1"
    );
}

#[test]
fn what_no_seed_knows_of_is_taken_from_a_file_on_the_data_partition() {
    let board = Board::new(&server("rack1"));
    assert_eq!(board.start().0, 0);
    let extra = board.data().join("config.toml");
    fs::write(
        &extra,
        "name = \"other\"\nlog = \"debug\"\n[server]\npod-range = \"100.80.0.0/16\"\n[cluster]\nname = \"x\"\n",
    )
    .unwrap();
    let (code, said) = board.start();
    assert_eq!(code, 0, "{said}");
    let config: toml::Table = board.written("run/minidc-boot/config.toml").unwrap().parse().unwrap();
    assert_eq!(config["server"]["pod-range"].as_str(), Some("100.80.0.0/16"));
    assert_eq!(
        (config["name"].as_str(), config["cluster"]["name"].as_str()),
        (Some("pi-1"), Some("rack1"))
    );
    fs::write(&extra, "[server]\npod-rang = 1\n").unwrap();
    let (code, said) = board.start();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("did you mean `pod-range`?"), "{said}");
    let config: toml::Table = board.written("run/minidc-boot/config.toml").unwrap().parse().unwrap();
    assert!(!config.contains_key("server"), "a file with a mistake is left out");
}

#[test]
fn the_machine_keeps_its_id_although_its_root_is_in_memory() {
    let board = Board::new(&node("rack1"));
    let id = |text: &str| {
        fs::remove_dir_all(board.root()).unwrap();
        fs::create_dir_all(board.root().join("etc")).unwrap();
        fs::write(board.root().join("etc/machine-id"), text).unwrap();
        let path = |path: PathBuf| path.display().to_string();
        let (card, data, root) = (path(board.card()), path(board.data()), path(board.root()));
        assert!(
            board
                .minidc(&["boot", "seed", "--card", &card, "--data", &data, "--root", &root])
                .status
                .success()
        );
        board.written("etc/machine-id").unwrap()
    };
    let (first, second) = (format!("{}\n", "0a".repeat(16)), format!("{}\n", "0b".repeat(16)));
    assert_eq!(id(&first), first);
    assert_eq!(id(&second), first);
    assert_eq!(id("uninitialized\n"), first);
}

#[test]
fn the_data_partition_of_a_card_file_grows_to_its_end_once() {
    let board = Board::new(&node("rack1"));
    let card = board.card().display().to_string();
    fs::OpenOptions::new()
        .write(true)
        .open(board.card())
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let grow = || {
        let output = board.minidc(&["boot", "grow", "--card", &card]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(grow().contains("has 55 MiB now, before 1"));
    let before = fs::read(board.card()).unwrap();
    assert_eq!(grow(), "");
    assert!(before == fs::read(board.card()).unwrap());
    let mut target = DeviceFile::open(&board.card(), false).unwrap();
    let table = Table::read(&mut target).unwrap();
    assert_eq!(table.get(DATA).unwrap().end(), 64 << 20);
    assert_eq!(table.get(6), sample::table().get(6));
    assert!(!layout::grow(&mut target).unwrap().is_new());
    fs::write(board.card(), vec![0; 1 << 20]).unwrap();
    let output = board.minidc(&["boot", "grow", "--card", &card]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no partition table"));
}

#[test]
fn a_damaged_first_partition_and_a_card_that_is_gone_are_told_and_the_board_goes_on() {
    let board = Board::new(&node("rack1"));
    assert_eq!(board.start().0, 0);
    let mut bytes = fs::read(board.card()).unwrap();
    let selector = *sample::table().get(SELECTOR).unwrap();
    let start = usize::try_from(selector.start).unwrap();
    bytes[start..start + 8192].fill(0);
    fs::write(board.card(), &bytes).unwrap();
    let (code, said) = board.start();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("first partition is damaged"), "{said}");
    assert_eq!(board.written("etc/hostname").unwrap(), "pi-2\n");
    fs::remove_file(board.card()).unwrap();
    let (code, said) = board.start();
    assert_eq!(code, 2, "{said}");
    assert_eq!(board.written("etc/hostname").unwrap(), "pi-2\n");
}

#[test]
fn a_data_partition_that_cannot_be_used_is_never_made_anew() {
    let board = Board::new(&server("rack1"));
    // in the place of the directory there is something that no directory can be made in
    fs::remove_dir(board.data()).unwrap();
    fs::write(board.data(), "").unwrap();
    let (code, said) = board.start();
    assert_eq!(code, 3, "{said}");
    assert!(
        said.contains("its data partition") && said.contains("nothing is formatted"),
        "{said}"
    );
    assert_eq!(board.written("run/minidc-boot/problem").unwrap(), "data\n");
    assert_eq!(board.written("run/minidc-boot/config.toml"), None);
    assert!(board.on_card(seed::PROBLEM_FILE).unwrap().contains("data partition"));
    assert!(
        board.on_card(seed::FILE).unwrap().contains("PRIVATE KEY"),
        "the identity stays on the card"
    );
}

/// A card file as a block device, whose data partition the kernel knows.
struct Loop(String);

impl Loop {
    fn new(card: &Path) -> Self {
        let device = Self(
            run("losetup", &["--find", "--show", &card.display().to_string()])
                .trim()
                .to_owned(),
        );
        let mut target = DeviceFile::open(card, false).unwrap();
        let data = *Table::read(&mut target).unwrap().get(DATA).unwrap();
        let [start, sectors] =
            [data.start / layout::SECTOR, data.bytes / layout::SECTOR].map(|number| number.to_string());
        run("addpart", &[&device.0, "7", &start, &sectors]);
        device
    }

    /// A file of the partition's directory in sysfs.
    fn partition(&self, file: &str) -> String {
        let name = self.0.trim_start_matches("/dev/");
        let path = format!("/sys/class/block/{name}p7/{file}");
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .trim()
            .to_owned()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("delpart", &[&self.0, "7"]);
        run("losetup", &["--detach", &self.0]);
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_kernel_learns_of_the_growth_while_the_partition_is_in_use() {
    let board = Board::new(&node("rack1"));
    fs::OpenOptions::new()
        .write(true)
        .open(board.card())
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let device = Loop::new(&board.card());
    assert_eq!(device.partition("size"), "2048");
    // open for as long as a mounted one is
    let node = board.place.path().join("p7");
    let number = device.partition("dev");
    let (major, minor) = number.split_once(':').unwrap();
    run("mknod", &[&node.display().to_string(), "b", major, minor]);
    let in_use = fs::File::open(&node).unwrap();
    for _ in 0..2 {
        let output = board.minidc(&["boot", "grow", "--card", &device.0]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(device.partition("size"), ((55 << 20) / 512).to_string());
    }
    drop(in_use);
}
