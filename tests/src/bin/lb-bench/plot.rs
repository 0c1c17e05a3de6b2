//! Plots of a report as SVG: bars from zero, with the quarters around their ends, below each other.
//!
//! Own code, since a bar is a rectangle. The same report always gives the same bytes.

use std::fmt::Write as _;

use crate::{
    measure::Measure,
    report::{Report, Row},
    table::{figure, title},
};

/// A plot: the name of its file, and what it shows, panel by panel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot {
    /// Without its ending.
    pub(crate) name: &'static str,
    /// What it is, for those who cannot see it.
    pub(crate) title: &'static str,
    measures: &'static [Measure],
}

/// All plots.
pub(crate) const PLOTS: [Plot; 4] = [
    Plot {
        name: "packets",
        title: "CPU time per UDP packet of 64 bytes",
        measures: &[
            Measure::EstablishedFew,
            Measure::EstablishedMany,
            Measure::FirstPacket,
        ],
    },
    Plot {
        name: "tcp",
        title: "TCP connections and streams",
        measures: &[
            Measure::Connection,
            Measure::ConnectMiddle,
            Measure::ConnectTail,
            Measure::Stream,
        ],
    },
    Plot {
        name: "programs",
        title: "Time of single programs",
        measures: &[
            Measure::RunMiss,
            Measure::RunOpen,
            Measure::RunHitOne,
            Measure::RunHitMany,
            Measure::RunHitMost,
        ],
    },
    Plot {
        name: "loading",
        title: "Loading services",
        measures: &[Measure::Load, Measure::Change],
    },
];

const WIDTH: f64 = 760.0;
/// Where bars begin, and how far the longest goes.
const LEFT: f64 = 190.0;
const REACH: f64 = 440.0;
/// From bar to bar, and how much of that is bar.
const STEP: f64 = 18.0;
const BAR: f64 = 12.0;
/// Above the first bar of a panel.
const HEAD: f64 = 30.0;
const MARGIN: f64 = 12.0;

impl Plot {
    /// The plot of a report; none if it has no such figures.
    pub(crate) fn draw(&self, report: &Report) -> Option<String> {
        let mut body = String::new();
        let mut y = MARGIN;
        for measure in self.measures {
            let of_measure = |row: &&Row| row.measure == *measure;
            let rows: Vec<&Row> = report.rows.iter().filter(of_measure).collect();
            if !rows.is_empty() {
                y = panel(&mut body, *measure, &rows, y);
            }
        }
        if body.is_empty() {
            return None;
        }
        let height = y + MARGIN;
        let title = escaped(self.title);
        Some(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n<title>{title}</title>\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        ))
    }
}

/// Draws the bars of one measure from `y` on; where the next panel begins.
fn panel(body: &mut String, measure: Measure, rows: &[&Row], y: f64) -> f64 {
    let heading = escaped(&format!("{}, {}", measure.title(), measure.unit()));
    let _ = writeln!(
        body,
        "<text x=\"{MARGIN}\" y=\"{:.0}\" font-weight=\"bold\">{heading}</text>",
        y + 16.0
    );
    let ends = rows
        .iter()
        .map(|row| row.summary.high.max(row.summary.median));
    let longest = ends.fold(f64::MIN_POSITIVE, f64::max);
    let mut at = y + HEAD;
    for row in rows {
        bar(body, row, longest, at);
        at += STEP;
    }
    at + MARGIN
}

fn bar(body: &mut String, row: &Row, longest: f64, y: f64) {
    let x = |value: f64| LEFT + REACH * (value.max(0.0) / longest);
    let summary = row.summary;
    let (end, low, high) = (x(summary.median), x(summary.low), x(summary.high));
    let label = escaped(&title(&row.name, row.services));
    let (colour, middle, base) = (colour(&row.name), y + BAR / 2.0, y + BAR - 2.0);
    let _ = writeln!(
        body,
        "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{label}</text>\n\
         <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n\
         <path d=\"M{low:.1} {middle:.1}H{high:.1}\" stroke=\"#222222\"/>\n\
         <text x=\"{:.1}\" y=\"{base:.1}\">{}</text>",
        LEFT - 8.0,
        end - LEFT,
        end.max(high) + 8.0,
        figure(summary.median)
    );
}

/// Ours, the floor, and others.
fn colour(name: &str) -> &'static str {
    match name {
        "xdp" | "tc" => "#2a6fb0",
        name if name.starts_with("forwarding") => "#8a8f98",
        _ => "#d08a3c",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{report::Samples, table};

    #[test]
    fn bars_are_as_long_as_their_figures_and_the_longest_goes_all_the_way() {
        let mut samples = Samples::default();
        for (name, value) in [("xdp", 100.0), ("nftables", 400.0)] {
            samples.add(Measure::EstablishedFew, name, 1, value);
        }
        let report = table::tests::report_of(&samples);
        let [packets, tcp, ..] = PLOTS;
        assert_eq!(tcp.draw(&report), None);
        let svg = packets.draw(&report).unwrap();
        for width in [REACH, REACH / 4.0] {
            assert!(
                svg.contains(&format!("width=\"{width:.1}\" height=\"12\"")),
                "{svg}"
            );
        }
        assert_eq!(svg.matches("<title>").count(), 1);
        assert!(
            svg.contains(">xdp 1</text>") && svg.contains(">400</text>"),
            "{svg}"
        );
    }
}
