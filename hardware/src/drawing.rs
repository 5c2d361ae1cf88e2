//! Pictures and tables for people, made of the pin maps and the states, so that they cannot tell other than the program does:
//! wiring of each board, the case, the card to print, the power budget. Compiled for tests only, which compare them with the
//! files.

use std::fmt::Write as _;

use crate::{Board, Colour, Part, State, board::Power, generated, header};

const FONT: &str = "font-family=\"DejaVu Sans, Verdana, sans-serif\"";
/// Between two rows of the header.
const ROW: u32 = 26;
/// Of the first row.
const TOP: u32 = 104;
/// The header's edges.
const LEFT: u32 = 300;
const RIGHT: u32 = 560;

fn text(out: &mut String, x: u32, y: u32, size: u32, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" text-anchor=\"{anchor}\" fill=\"#222\">{words}</text>"
    );
}

fn rectangle(out: &mut String, [x, y, width, height]: [u32; 4], style: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" {style}/>"
    );
}

fn line(out: &mut String, points: &[(u32, u32)], style: &str) {
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x},{y}")).collect();
    let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" {style}/>", points.join(" "));
}

fn svg(width: u32, height: u32, unit: &str, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}{unit}\" height=\"{height}{unit}\" viewBox=\"0 0 {width} {height}\" {FONT}>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// On screen and on paper.
fn fill(colour: &str) -> &'static str {
    match colour {
        "green" => "#2e9e44",
        "yellow" => "#f2c200",
        "orange" => "#f07800",
        "red" => "#d62020",
        "blue" => "#2060d0",
        "ground" => "#444444",
        "5 V" => "#b00020",
        _ => "#ffffff",
    }
}

fn row(pin: u8) -> u32 {
    TOP + u32::from((pin - 1) / 2) * ROW
}

/// A part and its terminals: what each is, and the pin of the header it goes to.
struct Wired {
    title: &'static str,
    note: &'static str,
    terminals: Vec<(String, u8)>,
    resistors: bool,
}

fn wired(board: &Board) -> Vec<Wired> {
    let of = |part: Part, ground: Option<u8>, plus: Option<u8>| {
        let mut terminals: Vec<(String, u8)> = board
            .pins(part)
            .into_iter()
            .map(|(what, gpio)| (what.to_owned(), header::pin(gpio).unwrap()))
            .collect();
        terminals.extend(ground.map(|pin| ("ground".to_owned(), pin)));
        terminals.extend(plus.map(|pin| ("5 V".to_owned(), pin)));
        terminals
    };
    let mut parts = Vec::new();
    if let Some(leds) = &board.leds {
        parts.push(Wired {
            title: "LEDs",
            note: "330 Ω each",
            terminals: of(Part::Leds, leds.ground, None),
            resistors: true,
        });
    }
    if let Some(rgb) = &board.rgb {
        parts.push(Wired {
            title: "RGB LED",
            note: "330 Ω each",
            terminals: of(Part::Rgb, rgb.ground, None),
            resistors: true,
        });
    }
    if let Some(button) = &board.button {
        parts.push(Wired {
            title: "Button",
            note: "",
            terminals: of(Part::Button, button.ground, None),
            resistors: false,
        });
    }
    if let Some(fan) = &board.fan {
        parts.push(Wired {
            title: "Fan",
            note: "by a transistor",
            terminals: of(Part::Fan, fan.ground, Some(4)),
            resistors: false,
        });
    }
    if let Some(strip) = &board.strip {
        parts.push(Wired {
            title: "Pixels",
            note: "APA102",
            terminals: of(Part::Strip, strip.ground, Some(2)),
            resistors: false,
        });
    }
    parts
}

/// The wiring of a board: the header as one looks at it with the board's edge at the right, parts beside the pins they go to.
fn wiring(board: &Board) -> String {
    let mut out = String::new();
    text(&mut out, 430, 34, 20, "middle", &board.name);
    text(
        &mut out,
        430,
        58,
        13,
        "middle",
        "every part is optional; pin 1 has the square pad",
    );
    let height = 20 * ROW + 8;
    rectangle(
        &mut out,
        [LEFT, TOP - 17, RIGHT - LEFT, height],
        "fill=\"#e8ece8\" stroke=\"#444\" rx=\"6\"",
    );
    for pin in 1..=40u8 {
        let (odd, y) = (pin % 2 == 1, row(pin));
        let x = if odd { 416 } else { 444 };
        let shape = if pin == 1 { "" } else { "rx=\"8\"" };
        rectangle(
            &mut out,
            [x - 10, y - 10, 20, 20],
            &format!("fill=\"#c9a227\" stroke=\"#444\" {shape}"),
        );
        text(&mut out, x, y + 4, 10, "middle", &pin.to_string());
        let (at, anchor) = if odd { (398, "end") } else { (462, "start") };
        text(&mut out, at, y + 4, 12, anchor, &header::label(pin));
    }
    for part in wired(board) {
        // the supply is taken from where it is; all else has to lie on one side, so that wires do not cross
        let rows: Vec<u8> = part
            .terminals
            .iter()
            .filter(|(what, pin)| what != "5 V" || *pin == 4)
            .map(|(_, pin)| *pin)
            .collect();
        let left = rows[0] % 2 == 1;
        assert!(
            rows.iter().all(|pin| (pin % 2 == 1) == left),
            "{}: {} is on both sides",
            board.name,
            part.title
        );
        let (first, last) = (row(*rows.iter().min().unwrap()), row(*rows.iter().max().unwrap()));
        let x = if left { 40 } else { 630 };
        rectangle(
            &mut out,
            [x, first - 12, 190, last - first + 24],
            "fill=\"#f7f7f2\" stroke=\"#444\" rx=\"6\"",
        );
        let (at, anchor) = if left { (x + 10, "start") } else { (x + 180, "end") };
        let middle = first.midpoint(last);
        text(
            &mut out,
            at,
            if part.note.is_empty() { middle + 5 } else { middle - 2 },
            14,
            anchor,
            part.title,
        );
        text(&mut out, at, middle + 14, 11, anchor, part.note);
        for (what, pin) in &part.terminals {
            let colour = match fill(what) {
                "#ffffff" => "#555555",
                colour => colour,
            };
            let wire = format!("stroke=\"{colour}\" stroke-width=\"3\"");
            let y = row(*pin);
            if !rows.contains(pin) {
                // around the part above it, to the far side of this one
                line(&mut out, &[(RIGHT, y), (840, y), (840, middle), (820, middle)], &wire);
                text(&mut out, 600, y - 5, 11, "middle", what);
                continue;
            }
            let (edge, end) = if left { (LEFT, 230) } else { (RIGHT, 630) };
            line(&mut out, &[(edge, y), (end, y)], &wire);
            if part.resistors && what != "ground" {
                rectangle(&mut out, [250, y - 5, 32, 10], "fill=\"#d8b98a\" stroke=\"#444\"");
            }
            let (dot, at, anchor) = if left { (220, 206, "end") } else { (640, 654, "start") };
            let _ = writeln!(
                out,
                "<circle cx=\"{dot}\" cy=\"{y}\" r=\"6\" fill=\"{colour}\" stroke=\"#444\"/>"
            );
            text(&mut out, at, y + 4, 12, anchor, what);
        }
    }
    let foot = TOP + height + 14;
    text(
        &mut out,
        430,
        foot,
        12,
        "middle",
        "LED: long leg to the resistor, short leg to ground (common cathode). Button: between its pin and ground.",
    );
    text(
        &mut out,
        430,
        foot + 18,
        12,
        "middle",
        "Fan: pin, 1 kΩ, base of an NPN transistor (BC337); fan between 5 V and collector, a diode 1N4148 across it.",
    );
    svg(860, foot + 36, "", &out)
}

/// A dimension line with its length in millimetres.
fn dimension(out: &mut String, from: (u32, u32), to: (u32, u32), words: &str) {
    let style = "stroke=\"#2060d0\" stroke-width=\"0.3\"";
    line(out, &[from, to], style);
    let (x, y) = (from.0.midpoint(to.0), from.1.midpoint(to.1));
    let vertical = from.0 == to.0;
    let tick = |out: &mut String, (x, y): (u32, u32)| {
        let ends = if vertical {
            [(x - 1, y), (x + 1, y)]
        } else {
            [(x, y - 1), (x, y + 1)]
        };
        line(out, &ends, style);
    };
    tick(out, from);
    tick(out, to);
    let turn = if vertical {
        format!(" transform=\"rotate(-90 {} {y})\"", x - 1)
    } else {
        String::new()
    };
    let (x, y) = if vertical { (x - 1, y) } else { (x, y - 1) };
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{y}\" font-size=\"3.2\" text-anchor=\"middle\" fill=\"#2060d0\"{turn}>{words}</text>"
    );
}

/// The case: a plate for each board and one on top, 3 mm acrylic, on M3 stand-offs of 35 mm. In millimetres; the plate is 1:1.
fn case() -> String {
    let mut out = String::new();
    let cut = "fill=\"none\" stroke=\"#d62020\" stroke-width=\"0.2\"";
    let hole = |out: &mut String, x: f32, y: f32, diameter: f32| {
        let _ = writeln!(out, "<circle cx=\"{x}\" cy=\"{y}\" r=\"{}\" {cut}/>", diameter / 2.0);
    };
    let say = |out: &mut String, x: u32, y: u32, words: &str| {
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{y}\" font-size=\"3.2\" fill=\"#222\">{words}</text>"
        );
    };
    let _ = writeln!(
        out,
        "<text x=\"10\" y=\"12\" font-size=\"6\" fill=\"#222\">minidc: plate (1:1) and stack, millimetres</text>"
    );
    // plate 110 x 80, the board's left upper corner at 12, 10
    let (x, y) = (24, 30);
    rectangle(&mut out, [x, y, 110, 80], &format!("{cut} rx=\"4\""));
    let (fx, fy) = (x as f32, y as f32);
    for (dx, dy) in [(5.0, 5.0), (105.0, 5.0), (5.0, 75.0), (105.0, 75.0)] {
        hole(&mut out, fx + dx, fy + dy, 3.2);
    }
    let board = "fill=\"none\" stroke=\"#888\" stroke-width=\"0.2\" stroke-dasharray=\"1 1\"";
    rectangle(&mut out, [x + 12, y + 8, 85, 56], &format!("{board} rx=\"3\""));
    for (dx, dy) in [(3.5, 3.5), (61.5, 3.5), (3.5, 52.5), (61.5, 52.5)] {
        hole(&mut out, fx + 12.0 + dx, fy + 8.0 + dy, 2.7);
    }
    // the Zero shares the two holes at its upper edge
    for dx in [3.5, 61.5] {
        hole(&mut out, fx + 12.0 + dx, fy + 8.0 + 26.5, 2.7);
    }
    for (index, dx) in [40.0, 50.0, 60.0].into_iter().enumerate() {
        hole(&mut out, fx + dx, fy + 72.0, 5.0);
        let colour = ["green", "yellow", "red"][index];
        let _ = writeln!(
            out,
            "<circle cx=\"{}\" cy=\"{}\" r=\"1.2\" fill=\"{}\"/>",
            fx + dx,
            fy + 72.0,
            fill(colour)
        );
    }
    hole(&mut out, fx + 75.0, fy + 72.0, 7.0);
    dimension(&mut out, (x, y - 8), (x + 110, y - 8), "110");
    dimension(&mut out, (x + 5, y - 3), (x + 105, y - 3), "100");
    dimension(&mut out, (x - 8, y), (x - 8, y + 80), "80");
    dimension(&mut out, (x - 3, y + 5), (x - 3, y + 75), "70");
    dimension(&mut out, (x, y + 86), (x + 40, y + 86), "40");
    dimension(&mut out, (x + 40, y + 86), (x + 50, y + 86), "10");
    dimension(&mut out, (x + 50, y + 86), (x + 60, y + 86), "10");
    dimension(&mut out, (x + 60, y + 86), (x + 75, y + 86), "15");
    dimension(&mut out, (x + 116, y + 72), (x + 116, y + 80), "8");
    say(
        &mut out,
        x,
        y + 112,
        "cut along red; dashed: the board (85 x 56), its left upper corner 12 from the left and 8 from the top",
    );
    say(
        &mut out,
        x,
        y + 117,
        "corners: 3.2 for M3, 5 from both edges; board: 2.7 for M2.5, 58 apart across, 49 down, 3.5 from the board's edges",
    );
    say(
        &mut out,
        x,
        y + 122,
        "Zero: the middle pair and the upper one, 23 apart; front edge: three of 5.0 for 5 mm LEDs, one of 7.0 for the button",
    );
    // the stack, half size
    let (sx, sy) = (172, 30);
    let (pitch, plate) = (19, 2);
    for level in 0..=4u32 {
        rectangle(
            &mut out,
            [sx, sy + level * pitch, 55, plate],
            "fill=\"#cfe6f2\" stroke=\"#444\" stroke-width=\"0.2\"",
        );
        if level < 4 {
            for dx in [2, 51] {
                let at = [sx + dx, sy + level * pitch + plate, 2, pitch - plate];
                rectangle(&mut out, at, "fill=\"#d0d0d0\" stroke=\"#444\" stroke-width=\"0.2\"");
            }
            let at = [sx + 8, sy + (level + 1) * pitch - 4, 40, 1];
            rectangle(&mut out, at, "fill=\"#2e9e44\" stroke=\"none\"");
        }
    }
    dimension(&mut out, (sx + 62, sy), (sx + 62, sy + pitch), "38");
    dimension(&mut out, (sx + 70, sy), (sx + 70, sy + 4 * pitch + plate), "155");
    say(&mut out, sx, sy - 5, "four boards from the side (1:2)");
    for (index, boards) in [3u32, 4, 6].into_iter().enumerate() {
        let y = sy + 4 * pitch + 14 + index as u32 * 5;
        let words = format!(
            "{boards} boards: {} plates, {} stand-offs, {} high",
            boards + 1,
            boards * 4,
            boards * 38 + 3
        );
        say(&mut out, sx, y, &words);
    }
    svg(256, 160, "mm", &out)
}

/// The card to print: a line for each state with its pattern over four seconds.
fn card() -> String {
    let mut out = String::new();
    text(&mut out, 24, 36, 22, "start", "What the light says");
    text(
        &mut out,
        24,
        60,
        14,
        "start",
        "A light that does not move, lit or dark, is a board where nobody lives.",
    );
    text(&mut out, 230, 84, 11, "start", "four seconds, left to right");
    for (index, state) in State::ALL.into_iter().enumerate() {
        let y = 112 + u32::try_from(index).unwrap() * 34;
        let (colour, name) = (state.colour(), state.name());
        text(&mut out, 24, y, 15, "start", name);
        let shade = if colour == Colour::White {
            "#f4f4f4"
        } else {
            fill(colour.as_str())
        };
        if state != State::Off {
            let _ = writeln!(
                out,
                "<circle cx=\"134\" cy=\"{}\" r=\"7\" fill=\"{shade}\" stroke=\"#444\"/>",
                y - 5
            );
            text(&mut out, 148, y, 12, "start", colour.as_str());
        }
        rectangle(&mut out, [230, y - 16, 400, 20], "fill=\"#303030\"");
        let (pattern, mut at) = (state.pattern(), 0);
        while at < 4000 && !pattern.period().is_zero() {
            for (lit, time) in pattern.round() {
                let end = (at + u32::try_from(time.as_millis()).unwrap()).min(4000);
                if lit && end > at {
                    rectangle(
                        &mut out,
                        [230 + at / 10, y - 16, (end - at) / 10, 20],
                        &format!("fill=\"{shade}\""),
                    );
                }
                at = end;
            }
        }
        text(&mut out, 646, y, 12, "start", state.meaning());
    }
    svg(1180, 112 + 34 * 13, "", &out)
}

fn pins_table() -> String {
    let mut table = String::from("| part | pin of the header (GPIO) | ground |\n|---|---|---|\n");
    let board = Board::virtual_pi().unwrap();
    for part in [Part::Leds, Part::Rgb, Part::Strip, Part::Button, Part::Fan] {
        let pins: Vec<String> = board
            .pins(part)
            .into_iter()
            .map(|(what, gpio)| format!("{what} {} ({gpio})", header::pin(gpio).unwrap()))
            .collect();
        let ground = match part {
            Part::Leds => board.leds.as_ref().and_then(|part| part.ground),
            Part::Rgb => board.rgb.as_ref().and_then(|part| part.ground),
            Part::Strip => board.strip.as_ref().and_then(|part| part.ground),
            Part::Button => board.button.as_ref().and_then(|part| part.ground),
            _ => board.fan.as_ref().and_then(|part| part.ground),
        };
        let _ = writeln!(
            table,
            "| {} | {} | {} |",
            part.as_str(),
            pins.join(", "),
            ground.unwrap()
        );
    }
    table
}

/// Watts of racks, boards only: at rest and with all cores at work.
fn power_table() -> String {
    let mut table = String::from(
        "| board | one, at rest | at work | 3 at work | 4 at work | 6 at work | its supply gives |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for board in Board::all().unwrap().values() {
        let Power { rest, work, supply } = board.power.unwrap();
        let watts = |milliwatts: u32| format!("{:.1} W", f64::from(milliwatts) / 1000.0);
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} | {} |",
            board.name,
            watts(rest),
            watts(work),
            watts(work * 3),
            watts(work * 4),
            watts(work * 6),
            watts(supply)
        );
    }
    table
}

#[test]
fn pictures_and_tables_show_what_the_pin_maps_say() {
    let mut same = None;
    for (name, board) in Board::all().unwrap() {
        generated::file(&format!("wiring/{name}.svg"), &wiring(&board));
        // the README has one table for all
        let pins: Vec<_> = wired(&board).into_iter().map(|part| part.terminals).collect();
        assert_eq!(*same.get_or_insert_with(|| pins.clone()), pins, "{name}");
    }
    generated::file("case.svg", &case());
    generated::file("card.svg", &card());
    generated::part_of_readme("pins", &pins_table());
    generated::part_of_readme("power", &power_table());
}
