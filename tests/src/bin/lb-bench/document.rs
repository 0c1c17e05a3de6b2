//! What a run leaves in the source tree: its plots, and in the README a table between two marks.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};

use crate::{plot::PLOTS, report::Report, table};

/// What is between the marks is written by the bench.
const BEGIN: &str = "<!-- bench: begin -->\n";
const END: &str = "<!-- bench: end -->";
/// Where plots are, below the root.
const PLOT_DIR: &str = "docs/bench";

/// Writes the plots, and the README's part, below the root of the source tree.
pub(crate) fn write(root: &Path, report: &Report) -> Result<()> {
    let dir = root.join(PLOT_DIR);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    for plot in PLOTS {
        if let Some(svg) = plot.draw(report) {
            let path = dir.join(format!("{}.svg", plot.name));
            fs::write(&path, svg).with_context(|| format!("write {}", path.display()))?;
        }
    }
    let path = root.join("README.md");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let text = replaced(&text, &part(report))
        .with_context(|| format!("{} lacks the marks", path.display()))?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn part(report: &Report) -> String {
    let mut text = table::summary(report);
    for plot in PLOTS.iter().filter(|plot| plot.draw(report).is_some()) {
        let _ = writeln!(text, "![{}]({PLOT_DIR}/{}.svg)", plot.title, plot.name);
    }
    text
}

/// The text with another part between the marks.
fn replaced(text: &str, part: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{part}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_marks_is_replaced_and_nothing_else() {
        let text = format!("a\n{BEGIN}old\n{END}\nb\n");
        let expected = format!("a\n{BEGIN}new\n{END}\nb\n");
        assert_eq!(replaced(&text, "new\n"), Some(expected));
        assert_eq!(replaced("a\nb\n", "new\n"), None);
    }
}
