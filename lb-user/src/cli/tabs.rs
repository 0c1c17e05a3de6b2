//! Text whose cells end with tabs, laid out in columns as kubectl's descriptions are: elastic tab stops.
//!
//! A column is a run of lines that have a cell at that place; the last cell of a line belongs to none. So a list
//! within a description has widths of its own, and one line without a tab ends every column.

/// Blanks between a column's widest cell and the next column.
const PADDING: usize = 2;

/// Lays `text` out.
pub(super) fn lay_out(text: &str) -> String {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let lines: Vec<Vec<&str>> = text
        .split('\n')
        .map(|line| line.split('\t').collect())
        .collect();
    let mut out = String::new();
    block(&lines, &mut Vec::new(), &mut out);
    out
}

/// Lines that share the columns of these widths.
fn block(lines: &[Vec<&str>], widths: &mut Vec<usize>, out: &mut String) {
    let column = widths.len();
    let has_column = |line: &Vec<&str>| column + 1 < line.len();
    for run in lines.chunk_by(|a, b| has_column(a) == has_column(b)) {
        if !run.iter().all(has_column) {
            for line in run {
                write_line(line, widths, out);
            }
            continue;
        }
        let cells = run.iter().filter_map(|line| line.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max();
        widths.push(widest.unwrap_or_default() + PADDING);
        block(run, widths, out);
        widths.pop();
    }
}

fn write_line(line: &[&str], widths: &[usize], out: &mut String) {
    let padded = line.iter().zip(widths);
    for (cell, width) in padded {
        out.push_str(cell);
        let padding = width.saturating_sub(cell.chars().count());
        out.extend(std::iter::repeat_n(' ', padding));
    }
    for cell in line.iter().skip(widths.len()) {
        out.push_str(cell);
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_wide_as_its_run_of_lines_needs() {
        let text = "Name:\tweb\nNamespace:\tdefault\nPort:\thttp\t80/TCP\nTargetPort:\t8080/TCP\nEvents:\t<none>\n";
        let expected = "\
Name:        web
Namespace:   default
Port:        http  80/TCP
TargetPort:  8080/TCP
Events:      <none>
";
        assert_eq!(lay_out(text), expected);
    }

    #[test]
    fn a_line_without_a_tab_ends_every_column() {
        let text =
            "Labels:\ta\nSubsets:\n  Ports:\n    Name\tPort\n    ----\t----\n    long-name\t1\n";
        let expected = "\
Labels:  a
Subsets:
  Ports:
    Name       Port
    ----       ----
    long-name  1
";
        assert_eq!(lay_out(text), expected);
    }

    #[test]
    fn an_empty_last_cell_leaves_the_padding_before_it() {
        assert_eq!(lay_out("a\t\nbcd\te\n"), "a    \nbcd  e\n");
    }
}
