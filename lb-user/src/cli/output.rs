//! How results are printed: kubectl's tables for people, JSON for programs.
//!
//! Standard output carries the result and nothing else.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

/// Blanks between columns, as kubectl has them.
const GAP: usize = 3;
/// Least width of a column with its gap, as kubectl has it.
const MIN_WIDTH: usize = 6;

/// The form of a result that is a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    Table,
    /// JSON for programs
    Json,
    /// The same as YAML
    Yaml,
}

impl Format {
    /// The value in a form for programs; none where a table is wanted.
    pub(super) fn structured(self, value: &impl Serialize) -> anyhow::Result<Option<String>> {
        Ok(match self {
            Self::Table => None,
            Self::Json => Some(json(value)?),
            Self::Yaml => Some(serde_yaml::to_string(value)?),
        })
    }
}

/// Columns and rows of text, left-aligned; nothing is padded after the last column.
pub(super) fn table<H: AsRef<str>, C: AsRef<str>>(header: &[H], rows: &[Vec<C>]) -> String {
    let header: Vec<&str> = header.iter().map(AsRef::as_ref).collect();
    let rows = rows
        .iter()
        .map(|row| row.iter().map(AsRef::as_ref).collect());
    let lines: Vec<Vec<&str>> = std::iter::once(header).chain(rows).collect();
    Widths::default().lay(&lines)
}

/// The widths that columns have had: a table that goes on later never gets narrower.
#[derive(Debug, Default)]
pub(super) struct Widths(Vec<usize>);

impl Widths {
    /// The lines, each column as wide as its widest cell so far.
    pub(super) fn lay<C: AsRef<str>>(&mut self, lines: &[Vec<C>]) -> String {
        for line in lines {
            for (column, cell) in line.iter().enumerate() {
                let width = MIN_WIDTH.max(cell.as_ref().chars().count() + GAP);
                match self.0.get_mut(column) {
                    Some(known) => *known = width.max(*known),
                    None => self.0.push(width),
                }
            }
        }
        let text: String = lines.iter().map(|line| self.line(line)).collect();
        visible(&text)
    }

    fn line<C: AsRef<str>>(&self, line: &[C]) -> String {
        let mut text = String::new();
        let mut widths = self.0.iter().copied();
        let mut padding = 0;
        for cell in line.iter().map(AsRef::as_ref) {
            text.extend(std::iter::repeat_n(' ', padding));
            text.push_str(cell);
            let width = widths.next().unwrap_or_default();
            padding = width.saturating_sub(cell.chars().count());
        }
        text.push('\n');
        text
    }
}

/// Any value as JSON that people can read, too.
fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}

/// A text that a terminal shows and does not obey: what manifests hold is not for it.
pub(super) fn visible(text: &str) -> String {
    let is_harmless = |c: char| c == '\n' || c == '\t' || !c.is_control();
    if text.chars().all(is_harmless) {
        return text.to_owned();
    }
    let shown = |c: char| match c {
        harmless if is_harmless(harmless) => harmless.to_string(),
        '\u{1b}' => "^[".to_owned(),
        other => other.escape_default().to_string(),
    };
    text.chars().map(shown).collect()
}

/// Kubernetes objects as kubectl prints them: JSON indented by four blanks.
pub fn indented_json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut text = Vec::new();
    let indent = PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut Serializer::with_formatter(&mut text, indent))?;
    text.push(b'\n');
    let text = String::from_utf8(text).map_err(serde::ser::Error::custom)?;
    Ok(escaped(text))
}

/// JSON without characters that a terminal would obey or that the reader of manifests refuses.
fn escaped(json: String) -> String {
    // Those that stand between values are white space; all others stand in texts.
    let is_wrong = |c: char| c != '\n' && is_unprintable(c);
    if !json.contains(is_wrong) {
        return json;
    }
    let shown = |c: char| match c {
        wrong if is_wrong(wrong) => format!("\\u{:04x}", u32::from(wrong)),
        other => other.to_string(),
    };
    json.chars().map(shown).collect()
}

/// Whether a character is none that a manifest may hold as it is.
pub(super) fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// Prints a result. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    print_more(text).map(|_| ())
}

/// Prints a part of a result; false where nobody reads any more.
pub(super) fn print_more(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    }
}

/// A size in the largest unit of 1,024 that leaves a number of at least one.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let fitting = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
    match fitting {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// An age as kubectl prints it: two units while the second one says something.
pub(super) fn age(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    let two = |big: u64, big_unit: char, small: u64, small_unit: char| match (
        seconds / big,
        seconds % big / small,
    ) {
        (bigs, 0) => format!("{bigs}{big_unit}"),
        (bigs, smalls) => format!("{bigs}{big_unit}{smalls}{small_unit}"),
    };
    match seconds {
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two(MINUTE, 'm', 1, 's'),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two(HOUR, 'h', MINUTE, 'm'),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two(DAY, 'd', HOUR, 'h'),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two(YEAR, 'y', DAY, 'd'),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_look_like_kubectls() {
        let rows = [
            vec![
                "hostname",
                "ClusterIP",
                "10.96.0.10",
                "<none>",
                "80/TCP",
                "5s",
            ],
            vec![
                "a-long-name",
                "ClusterIP",
                "None",
                "<none>",
                "<none>",
                "2d3h",
            ],
        ];
        let header = [
            "NAME",
            "TYPE",
            "CLUSTER-IP",
            "EXTERNAL-IP",
            "PORT(S)",
            "AGE",
        ];
        let expected = "\
NAME          TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)   AGE
hostname      ClusterIP   10.96.0.10   <none>        80/TCP    5s
a-long-name   ClusterIP   None         <none>        <none>    2d3h
";
        assert_eq!(table(&header, &rows), expected);
    }

    #[test]
    fn width_is_counted_in_characters() {
        let text = table(&["A", "B"], &[vec!["ü", "1"], vec!["ab", "2"]]);
        assert_eq!(text, "A     B\nü     1\nab    2\n");
    }

    #[test]
    fn a_table_that_goes_on_keeps_its_widths() {
        let mut widths = Widths::default();
        assert_eq!(widths.lay(&[vec!["abcdef", "1"]]), "abcdef   1\n");
        assert_eq!(widths.lay(&[vec!["ab", "2"]]), "ab       2\n");
        assert_eq!(widths.lay(&[vec!["abcdefgh", "3"]]), "abcdefgh   3\n");
    }

    #[test]
    fn sizes_have_kubernetes_units() {
        for (size, text) in [
            (0, "0"),
            (1023, "1023"),
            (4096, "4Ki"),
            (8_392_704, "8Mi"),
            (3 << 30, "3Gi"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn ages_are_kubectls() {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (2 * MINUTE, "2m"),
            (2 * MINUTE + 5, "2m5s"),
            (10 * MINUTE + 59, "10m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 20 * MINUTE, "3h20m"),
            (8 * HOUR + 59 * MINUTE, "8h"),
            (2 * DAY + HOUR, "2d1h"),
            (8 * DAY + HOUR, "8d"),
            (730 * DAY, "2y"),
            (740 * DAY, "2y10d"),
            (3000 * DAY, "8y"),
        ] {
            assert_eq!(age(seconds), text, "{seconds}");
        }
    }
}
