//! `minidc seed …`: the file on a card that says what its board is, looked at before a board does.

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use minidc_image::seed::{self, Membership, Problem, Seed, Stage};
use minidc_link::{
    clock,
    token::{Token, TokenError},
};

use crate::cli::SeedCommand;

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
            let problems = token_problems(&seed, &String::from_utf8_lossy(&contents), clock::system());
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

/// What only somebody who understands tokens can find wrong: a token of another cluster or board, or of the past. `text` is the file,
/// `now` in Unix seconds.
pub(crate) fn token_problems(seed: &Seed, text: &str, now: u64) -> Vec<Problem> {
    let Membership::Node {
        token: Some(token),
        ca_pin,
    } = &seed.membership
    else {
        return Vec::new();
    };
    let line = text
        .lines()
        .position(|line| line.trim_start().starts_with("token"))
        .map(|index| index + 1);
    let problem = |message: String| Problem {
        line,
        key: Some("token".into()),
        message,
    };
    let token: Token = match token.expose().parse() {
        Ok(token) => token,
        Err(error) => return vec![problem(TokenError::to_string(&error))],
    };
    let mut problems = Vec::new();
    if token.cluster() != seed.cluster {
        problems.push(problem(format!(
            "it is for the cluster {:?}, the file says {:?}",
            token.cluster(),
            seed.cluster
        )));
    }
    if let Err(error) = token.check_node(&seed.node) {
        problems.push(problem(error.to_string()));
    }
    if token.expires() < now {
        problems.push(problem("it has expired: make a new one".into()));
    }
    if let Some(pin) = ca_pin
        && !pin.eq_ignore_ascii_case(&token.pin().to_string())
    {
        problems.push(problem("it is of another cluster than \"ca_pin\" names".into()));
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
            let problems = token_problems(seed, "# a remark\n token = \"…\"\n", now);
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(said(&seed("rack1", "pi-2", 1), 999), "");
        let all = said(&seed("rack2", "pi-3", 2), 1001);
        for word in [
            "line 2: token: it is for the cluster \"rack1\", the file says \"rack2\"",
            "the join token is for node \"pi-2\", this is \"pi-3\"",
            "it has expired",
            "another cluster than \"ca_pin\"",
        ] {
            assert!(all.contains(word), "{word}\n{all}");
        }
    }
}
