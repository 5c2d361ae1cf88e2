//! What the short-lived subcommands do, a file each.

pub(crate) mod image;
pub(crate) mod kubeconfig;
pub(crate) mod node;
pub(crate) mod rack;
pub(crate) mod status;
pub(crate) mod token;

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
