//! A report as text for people: rows by measure, the bar, and what is to be known of the run. It is Markdown, which also
//! reads well on a terminal.

use std::fmt::Write as _;

use crate::{
    measure::Measure,
    report::{Report, Row},
    stats::{Ratio, Summary},
};

/// The whole report.
pub(crate) fn report(report: &Report) -> String {
    let mut text = machine(report);
    text.push_str(&rows(report));
    text.push_str(&bar(report));
    for note in &report.notes {
        let _ = writeln!(text, "* {note}");
    }
    for fault in &report.faults {
        let _ = writeln!(text, "FAULT: {fault}");
    }
    text
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "A {} run on {}: {} x {}, Linux {}; load {}; {}.\n\n",
        report.scale,
        machine.date,
        machine.cpus,
        machine.processor,
        machine.kernel,
        machine.load.join(" to "),
        machine.versions.join(", ")
    )
}

fn rows(report: &Report) -> String {
    let header = [
        "", "of", "services", "median", "quarters", "unit", "arrived",
    ];
    let cells = report.rows.iter().map(|row| {
        let Summary { median, low, high } = row.summary;
        let arrived = row.packets.map_or_else(String::new, arrived);
        [
            row.measure.title().to_owned(),
            row.name.clone(),
            services(row),
            figure(median),
            format!("{} to {}", figure(low), figure(high)),
            row.unit.clone(),
            arrived,
        ]
    });
    markdown(&header, &cells.collect::<Vec<_>>())
}

fn arrived([sent, arrived]: [u64; 2]) -> String {
    if sent == arrived {
        return format!("all of {sent}");
    }
    format!("{arrived} of {sent}")
}

fn bar(report: &Report) -> String {
    let header = ["goal", "ratio", "95 % interval", "shall be", ""];
    let mut cells: Vec<_> = report
        .bar
        .iter()
        .map(|mark| {
            let verdict = if mark.is_met { "met" } else { "missed" };
            [
                mark.goal.clone(),
                ratio(mark.ratio.median),
                interval(mark.ratio),
                mark.limit.clone(),
                verdict.to_owned(),
            ]
        })
        .collect();
    cells.extend(report.noise.iter().map(|(measure, noise)| {
        [
            format!("{}: forwarding twice", measure.title()),
            ratio(noise.median),
            interval(*noise),
            String::new(),
            "noise".to_owned(),
        ]
    }));
    markdown(&header, &cells)
}

/// What the README shows: the medians of the rows that have rivals, a column each.
pub(crate) fn summary(report: &Report) -> String {
    let mut text = machine(report);
    let columns = columns(report);
    let mut header = vec!["median".to_owned()];
    header.extend(
        columns
            .iter()
            .map(|(name, services)| title(name, *services)),
    );
    let shown = [
        Measure::EstablishedFew,
        Measure::EstablishedMany,
        Measure::FirstPacket,
        Measure::Connection,
        Measure::ConnectMiddle,
        Measure::ConnectTail,
        Measure::Stream,
    ];
    let cells: Vec<Vec<String>> = shown
        .into_iter()
        .map(|measure| {
            let mut cells = vec![format!("{}, {}", measure.title(), measure.unit())];
            cells.extend(columns.iter().map(|(name, services)| {
                let row = report.row(measure, name, *services);
                row.map_or_else(String::new, |row| figure(row.summary.median))
            }));
            cells
        })
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    text.push_str(&markdown(&header, &cells));
    text
}

/// Who is compared, with how many services.
pub(crate) fn columns(report: &Report) -> Vec<(String, u32)> {
    let mut columns: Vec<(String, u32)> = Vec::new();
    let few = |row: &&Row| row.measure == Measure::EstablishedFew;
    for row in report.rows.iter().filter(few) {
        columns.push((row.name.clone(), row.services));
    }
    columns
}

/// A contender's name with its number of services.
pub(crate) fn title(name: &str, services: u32) -> String {
    if services == 0 {
        return name.to_owned();
    }
    format!("{name} {}", grouped(services))
}

fn services(row: &Row) -> String {
    if row.services == 0 {
        return String::new();
    }
    grouped(row.services)
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits that count, as far as there are any before the point.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn ratio(value: f64) -> String {
    if value.abs() < 0.1 {
        return format!("{value:.4}");
    }
    format!("{value:.2}")
}

fn interval(Ratio { low, high, .. }: Ratio) -> String {
    format!("{} to {}", ratio(low), ratio(high))
}

fn markdown<T: AsRef<[String]>>(header: &[&str], rows: &[T]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.as_ref().get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(header[column].chars().count()).max(3)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths);
        let padded: Vec<String> = padded
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = line(&header) + &line(&rule);
    for row in rows {
        text.push_str(&line(row.as_ref()));
    }
    text + "\n"
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::{Machine, Samples};

    /// A report of these samples alone.
    pub(crate) fn report_of(samples: &Samples) -> Report {
        Report {
            scale: "test".to_owned(),
            machine: Machine::default(),
            notes: Vec::new(),
            noise: std::collections::BTreeMap::new(),
            rows: samples.rows(),
            bar: Vec::new(),
            faults: samples.faults.clone(),
        }
    }

    #[test]
    fn numbers_are_as_long_as_they_say_something() {
        assert_eq!(
            [0.0, 9.999, 12.34, 1234.5].map(figure),
            ["0.00", "10.00", "12.3", "1234"]
        );
        assert_eq!(
            [1, 999, 1000, 65_536, 1_048_576].map(grouped),
            ["1", "999", "1,000", "65,536", "1,048,576"]
        );
        assert_eq!([0.2, 0.012_34].map(ratio), ["0.20", "0.0123"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "12345".to_owned()]];
        let expected = "| x   | y     |\n| --- | ----- |\n| a   | 12345 |\n\n";
        assert_eq!(markdown(&["x", "y"], &rows), expected);
    }
}
