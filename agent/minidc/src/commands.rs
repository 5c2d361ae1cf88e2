//! What the short-lived subcommands do, a file each.

pub(crate) mod boot;
pub(crate) mod clock;
pub(crate) mod flash;
pub(crate) mod halt;
pub(crate) mod image;
pub(crate) mod kubeconfig;
pub(crate) mod led;
pub(crate) mod locate;
pub(crate) mod net;
pub(crate) mod node;
pub(crate) mod rack;
pub(crate) mod seed;
pub(crate) mod status;
pub(crate) mod token;

/// Exit code of a program that SIGPIPE ended, as shells count it.
const BROKEN_PIPE: i32 = 141;

/// Makes `minidc node list | head -1` end as other programs do, when nobody reads on: `println!` panics then.
pub(crate) fn end_quietly_on_a_broken_pipe() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic
            .payload_as_str()
            .is_some_and(|text| text.starts_with("failed printing to stdout"))
        {
            std::process::exit(BROKEN_PIPE);
        }
        usual(panic);
    }));
}

/// Prints rows as kubectl does: columns as wide as their widest cell, three spaces between them.
pub(crate) fn print_table(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain([header[column].len()])
            .max()
    };
    let widths: Vec<usize> = (0..header.len()).filter_map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let text: String = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}   ", width = *width))
            .collect();
        println!("{}", text.trim_end());
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}
