//! `minidc clock`: what the clock is judged by, and a person's word that it is right.

use jiff::Timestamp;
use minidc_link::clock::{BUILD_TIME, system};

use crate::{
    clock::{Kept, is_confirmed},
    config::Config,
};

fn shown(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(|| seconds.to_string(), |time| time.to_string())
}

/// Runs `minidc clock`, or with `confirm` writes the present time down as right.
pub(crate) fn run(confirm: bool, config: &Config) -> anyhow::Result<()> {
    let kept = Kept::new(&config.data);
    let now = system();
    let reading = kept.floor().judge(now);
    if confirm {
        anyhow::ensure!(
            !reading.behind,
            "the clock says {}, which cannot be: it is {} at least. Set it first (date -s)",
            shown(now),
            shown(reading.seconds)
        );
        kept.save(true)?;
        println!("{} is right: it is never earlier from now on", shown(now));
        return Ok(());
    }
    println!("now:        {}", shown(now));
    println!("built:      {}", shown(BUILD_TIME));
    println!("card made:  {}", kept.seed.map_or_else(|| "-".to_owned(), shown));
    println!("last saved: {}", kept.saved().map_or_else(|| "-".to_owned(), shown));
    let judgement = match (is_confirmed(), reading.behind, reading.far_ahead) {
        (true, ..) => "a time service looks after it",
        (false, true, _) => "behind what can be true",
        (false, false, true) => "more than a day ahead of what was known; `minidc clock confirm` says that it is right",
        (false, false, false) => "believed; no time service looks after it",
    };
    println!("judged:     {judgement}");
    Ok(())
}
