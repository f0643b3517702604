//! Weighted stacks as a flame graph: an SVG drawn here from the folded lines. A browser shows a name and its time under the
//! pointer, zooms into a frame by a click (on the lowest one: out again), and marks what Ctrl-F's question names.

use std::fmt::Write as _;
use std::io;

use super::folded;
use super::weigh::Of;
use crate::model::profile::Profile;
use crate::model::units::{duration, percent};

const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 10.0;
const ROW: usize = 16;
/// Room for title and subtitle.
const HEAD: usize = 56;
/// Frames narrower than this are left out: nobody sees them, and each costs a hundred bytes.
const LEAST_WIDTH: f64 = 0.1;
/// Rows drawn; deeper frames are left out.
const MAX_ROWS: usize = 1_024;
/// Width of a character.
const CHARACTER: f64 = 7.2;

/// A frame of the picture.
struct Flame {
    name: String,
    row: usize,
    from_ns: u64,
    to_ns: u64,
}

/// Writes the picture. A profile without any time is an error: there is nothing to draw.
pub fn write(profile: &Profile, of: Of, out: &mut impl io::Write) -> io::Result<()> {
    let lines = folded::lines(profile, of);
    let mut stacks: Vec<(Vec<&str>, u64)> = lines.iter().map(|(line, ns)| (line.split(';').collect(), *ns)).collect();
    stacks.sort();
    let (flames, all_ns) = flames(&stacks);
    if all_ns == 0 {
        return Err(io::Error::other("the capture holds no samples and no waits to draw"));
    }
    out.write_all(picture(&flames, all_ns, of).as_bytes())
}

/// One flame per name and run of stacks that have it at the same depth.
fn flames(stacks: &[(Vec<&str>, u64)]) -> (Vec<Flame>, u64) {
    let (mut flames, mut now_ns) = (Vec::new(), 0u64);
    let mut open: Vec<(&str, u64)> = vec![("all", 0)];
    let mut close = |open: &mut Vec<(&str, u64)>, rows: usize, now_ns: u64| {
        while open.len() > rows {
            let Some((name, from_ns)) = open.pop() else { return };
            flames.push(Flame { name: name.to_owned(), row: open.len(), from_ns, to_ns: now_ns });
        }
    };
    for (names, ns) in stacks {
        let same = names.iter().zip(&open[1..]).take_while(|(name, (other, _))| *name == other).count();
        close(&mut open, 1 + same, now_ns);
        let room = MAX_ROWS.saturating_sub(open.len());
        open.extend(names[same..].iter().take(room).map(|name| (*name, now_ns)));
        now_ns = now_ns.saturating_add(*ns);
    }
    close(&mut open, 0, now_ns);
    (flames, now_ns)
}

fn picture(flames: &[Flame], all_ns: u64, of: Of) -> String {
    let scale = (WIDTH - 2.0 * MARGIN) / all_ns as f64;
    let seen = |flame: &&Flame| (flame.to_ns - flame.from_ns) as f64 * scale >= LEAST_WIDTH;
    let rows = flames.iter().filter(seen).map(|flame| flame.row + 1).max().unwrap_or(1);
    let height = HEAD + rows * ROW + ROW;
    let title = match of {
        Of::OnCpu => "On-CPU time",
        Of::OffCpu => "Time waited, by function and reason",
        Of::Wall => "On-CPU time and time waited",
    };
    let all = duration(all_ns as f64 / 1e9);
    let mut svg = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"12\">\n<style>.f:hover{{opacity:.7;cursor:pointer}}\
         text{{pointer-events:none}}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#f8f8f8\"/>\n\
         <text x=\"{}\" y=\"24\" font-size=\"17\" text-anchor=\"middle\">{title}</text>\n\
         <text x=\"{}\" y=\"42\" fill=\"#555\" text-anchor=\"middle\">{all}, all threads summed up; samples by their period, waits \
         exact, split over the stacks of their place</text>\n",
        WIDTH / 2.0,
        WIDTH / 2.0,
    );
    for flame in flames.iter().filter(seen) {
        let ns = flame.to_ns - flame.from_ns;
        let (x, width) = (MARGIN + flame.from_ns as f64 * scale, ns as f64 * scale);
        let y = height - ROW - (flame.row + 1) * ROW;
        let (label, time) = (escaped(&shortened(&flame.name, width)), duration(ns as f64 / 1e9));
        // It may begin with `<`.
        let share = escaped(&percent(ns as f64 / all_ns as f64));
        // A String takes all that is written to it.
        let _ = writeln!(
            svg,
            "<g class=\"f\"><title>{} ({time}, {share})</title><rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{}\" \
             fill=\"{}\"/><text x=\"{:.2}\" y=\"{}\">{label}</text></g>",
            escaped(&flame.name),
            ROW - 1,
            colour(&flame.name),
            x + 3.0,
            y + ROW - 4,
        );
    }
    let _ = writeln!(svg, "<script><![CDATA[{}]]></script>\n</svg>", include_str!("flamegraph.js"));
    svg
}

fn shortened(name: &str, width: f64) -> String {
    let room = ((width - 4.0) / CHARACTER).max(0.0) as usize;
    match name.chars().count() {
        length if length <= room => name.to_owned(),
        _ if room < 3 => String::new(),
        _ => name.chars().take(room - 2).chain("..".chars()).collect(),
    }
}

/// Text without markup, and without what XML cannot hold.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            character if character.is_control() || matches!(character, '\u{fffe}' | '\u{ffff}') => safe.push(' '),
            character => safe.push(character),
        }
    }
    safe
}

/// By what a frame is: reasons of waits, kernel, Python, the rest; and by its name, always the same.
fn colour(name: &str) -> String {
    let hash = name.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let (hue, spread) = match name {
        name if name.starts_with('[') => (215, 20),
        name if name.ends_with("_[k]") => (285, 20),
        name if name.ends_with(".py)") => (95, 35),
        _ => (20, 35),
    };
    hexadecimal(hue + hash % spread, 60 + (hash >> 8) % 20, 62 + (hash >> 16) % 12)
}

/// A colour given by hue (degrees), saturation and lightness (per cent), as every viewer knows it: only browsers read `hsl()`.
fn hexadecimal(hue: u32, saturation: u32, lightness: u32) -> String {
    let (saturation, lightness) = (f64::from(saturation) / 100.0, f64::from(lightness) / 100.0);
    let reach = saturation * lightness.min(1.0 - lightness);
    let channel = |offset: u32| {
        let position = f64::from((offset + hue / 30) % 12) + f64::from(hue % 30) / 30.0;
        let value = lightness - reach * (position - 3.0).min(9.0 - position).clamp(-1.0, 1.0);
        (value * 255.0).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", channel(0), channel(8), channel(4))
}

#[cfg(test)]
mod tests {
    use super::hexadecimal;

    #[test]
    fn colours_are_written_as_every_viewer_reads_them() {
        let known = [
            ((0, 100, 50), "#ff0000"),
            ((120, 100, 50), "#00ff00"),
            ((240, 100, 50), "#0000ff"),
            ((60, 100, 50), "#ffff00"),
        ];
        for ((hue, saturation, lightness), expected) in known {
            assert_eq!(hexadecimal(hue, saturation, lightness), expected, "hue {hue}");
        }
        assert_eq!(hexadecimal(210, 0, 100), "#ffffff");
        assert_eq!(hexadecimal(30, 60, 70), "#e0b385");
    }
}
