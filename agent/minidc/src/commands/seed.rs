//! `minidc seed …`: the file on a card that says what its board is, looked at before a board does.

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use minidc_image::{
    boot::{Cluster, Known},
    seed::{self, Membership, Problem, Seed, Stage},
};
use minidc_link::{clock, token::Token};

use crate::{boot::adopt::accept, cli::SeedCommand};

/// Runs one `seed` subcommand.
pub(crate) fn run(command: &SeedCommand) -> anyhow::Result<ExitCode> {
    match command {
        SeedCommand::Check { file, started } => {
            let stage = if *started { Stage::Joined } else { Stage::FirstBoot };
            check(file, stage)
        }
        SeedCommand::Template => {
            print!("{}", seed::template());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(file: &Path, stage: Stage) -> anyhow::Result<ExitCode> {
    let contents = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let problems = match Seed::parse_bytes(&contents, stage) {
        Ok(seed) => {
            let problems = problems_inside(&seed, &String::from_utf8_lossy(&contents), clock::system());
            if problems.is_empty() {
                println!(
                    "{} is in order: {}, {} of {}",
                    file.display(),
                    seed.node,
                    seed.membership.role(),
                    seed.cluster
                );
                return Ok(ExitCode::SUCCESS);
            }
            problems
        }
        Err(problems) => problems,
    };
    for problem in &problems {
        println!("{}: {problem}", file.display());
    }
    Ok(ExitCode::FAILURE)
}

/// What the board that starts with this seed would say of it, and that its token has expired, which only this computer's clock can
/// tell. `text` is the file, `now` in Unix seconds.
fn problems_inside(seed: &Seed, text: &str, now: u64) -> Vec<Problem> {
    // a server's card that says that its identity was moved is taken at its word
    let moved = seed.moved_authority.clone().map(|pin| Cluster {
        name: seed.cluster.clone(),
        pin,
    });
    let known = Known {
        server: moved.map(Ok),
        ..Known::default()
    };
    let mut problems = accept(seed, text, &known).err().unwrap_or_default();
    if let Membership::Node { token: Some(token), .. } = &seed.membership
        && let Ok(token) = token.expose().parse::<Token>()
        && token.expires() < now
    {
        let expired = Problem {
            line: None,
            key: Some("token".into()),
            message: "it has expired: make a new one".into(),
        };
        problems.push(expired.located(text));
    }
    problems
}

#[cfg(test)]
mod tests {
    use minidc_image::seed::Secret;
    use minidc_link::pki::Pin;

    use super::*;

    #[test]
    fn a_token_of_another_cluster_board_or_time_is_found() {
        let token = Token::mint(&[7; 32], "rack1", Pin([1; 32]), "ab", Some("pi-2"), 1000).to_string();
        let seed = |cluster: &str, node: &str, pin: u8| Seed {
            membership: Membership::Node {
                token: Some(Secret::new(token.clone())),
                ca_pin: Some(Pin([pin; 32]).to_string()),
            },
            ..Seed::parse(
                &format!("cluster = \"{cluster}\"\nname = \"{node}\"\nrole = \"server\"\n"),
                Stage::FirstBoot,
            )
            .unwrap()
        };
        let said = |seed: &Seed, now| {
            let problems = problems_inside(seed, "# a remark\n token = \"…\"\n", now);
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(said(&seed("rack1", "pi-2", 1), 999), "");
        let all = said(&seed("rack2", "pi-3", 2), 1001);
        for word in [
            "line 2: token: it is for cluster \"rack1\", not for \"rack2\"",
            "line 2: token: it is for a board with name = \"pi-2\", not \"pi-3\"",
            "line 2: token: it has expired",
            "line 2: token: it is of a cluster that ca_pin does not name",
        ] {
            assert!(all.contains(word), "{word}\n{all}");
        }
    }
}
