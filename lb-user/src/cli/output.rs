//! How results are printed: kubectl's tables for people, JSON for programs.
//!
//! Standard output carries the result and nothing else.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

/// Blanks between columns, as kubectl has them.
const GAP: usize = 3;

/// The form of a result that is a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    Table,
    /// JSON for programs
    Json,
}

/// Columns and rows of text, left-aligned; nothing is padded after the last column.
pub(super) fn table<H: AsRef<str>, C: AsRef<str>>(header: &[H], rows: &[Vec<C>]) -> String {
    let header: Vec<&str> = header.iter().map(AsRef::as_ref).collect();
    let mut lines = vec![header];
    lines.extend(
        rows.iter()
            .map(|row| row.iter().map(AsRef::as_ref).collect()),
    );
    let n_columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < line.len() {
                let padding = widths[column] + GAP - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', padding));
            }
        }
        text.push('\n');
    }
    text
}

/// Any value as JSON that people can read, too.
pub(super) fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}

/// Prints a result. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
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
        assert_eq!(text, "A    B\nü    1\nab   2\n");
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
