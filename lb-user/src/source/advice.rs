//! What is known to lead to text that does not parse.
//!
//! A parser says where it could not go on, which is seldom what has to be mended.

/// Characters that look like blanks or colons and are none.
const LOOKALIKES: [(char, &str); 5] = [
    ('\u{a0}', "a no-break space (U+00A0)"),
    ('\u{3000}', "a wide space (U+3000)"),
    ('\u{200b}', "an invisible space (U+200B)"),
    ('\u{feff}', "a byte order mark (U+FEFF)"),
    ('\u{ff1a}', "a wide colon (U+FF1A)"),
];
/// Dashes, also those that word processors make of two.
const DASHES: [char; 3] = ['-', '\u{2013}', '\u{2014}'];
/// Lines around the fault that are looked at for what looks like something else.
const NEAR: usize = 1;
/// Lines before the fault in which a separator or an elision may be its cause.
const FAR: usize = 200;

/// The line that has to be mended, and how, if that can be told. `line` counts in `text`, from 1;
/// `first` is its first line in the file, in which the result counts.
pub(super) fn advice(text: &str, line: usize, first: usize) -> Option<(usize, String)> {
    let start = line.saturating_sub(FAR).max(1);
    let lines: Vec<(usize, &str)> = (1..)
        .zip(text.lines())
        .skip(start - 1)
        .take(FAR + NEAR + 1)
        .collect();
    let near = || {
        let is_near = |at: usize| at.abs_diff(line) <= NEAR;
        lines.iter().copied().filter(move |(at, _)| is_near(*at))
    };
    let found = near()
        .find_map(|(at, text)| slip(text).map(|told| (at, told)))
        .or_else(|| near().find_map(|(at, text)| missing_space(text).map(|told| (at, told))))
        .or_else(|| {
            let mut lines = lines.iter().rev();
            lines.find_map(|(at, text)| mark(text).map(|told| (*at, told.to_owned())))
        })
        .or_else(|| near().find_map(|(at, text)| lookalike(text).map(|told| (at, told))));
    found.map(|(at, told)| {
        let at = first + at - 1;
        (at, told.replace("{line}", &at.to_string()))
    })
}

/// The line before `line` that has no colon, where `line` has one: a parser misses the colon of a field where
/// the next field has its own.
pub(super) fn without_colon(text: &str, line: usize) -> Option<usize> {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let (last, before) = lines.split_last()?;
    let is_text = |text: &str| !text.trim().is_empty() && !text.trim_start().starts_with('#');
    let at = before.iter().rposition(|text| is_text(text))?;
    (last.contains(':') && !before[at].contains(':')).then_some(at + 1)
}

/// Lines that are no YAML wherever they stand.
fn mark(text: &str) -> Option<&'static str> {
    match text.trim() {
        "--" => Some("`--` in line {line} does not separate documents, `---` does"),
        "..." | "…" => Some(
            "the dots in line {line} stand for something that was left out; write it out or remove them",
        ),
        text if text.starts_with("```") || text.starts_with("~~~") => {
            Some("line {line} is a fence of Markdown; remove it")
        }
        text if text.starts_with("<<<<<<< ")
            || text.starts_with(">>>>>>> ")
            || text == "=======" =>
        {
            Some("line {line} is left over from a merge; choose one side")
        }
        _ => None,
    }
}

/// Slips that show in one line.
fn slip(text: &str) -> Option<String> {
    let blank = text.len() - text.trim_start().len();
    if text[..blank].contains('\t') {
        return Some("line {line} is indented by a tab; YAML wants blanks".to_owned());
    }
    let bare = text.trim();
    if bare.len() > 1 && bare != "--" && bare.trim_matches(DASHES).is_empty() {
        return Some(format!(
            "`{}` in line {{line}} separates no documents; write `---`, from the first column on",
            super::node::shorten(bare)
        ));
    }
    if text
        .strip_prefix("+ ")
        .is_some_and(|rest| rest.contains(':'))
    {
        return Some("line {line} is left over from a diff; apply it first".to_owned());
    }
    if text.contains("{{") {
        return Some("line {line} is a template; render it first".to_owned());
    }
    None
}

/// A line whose colon has no space behind it.
pub(super) fn missing_space(text: &str) -> Option<String> {
    let text = text.trim();
    let (key, rest) = text.trim_start_matches("- ").split_once(':')?;
    let is_word = is_word(key) && key.contains(|c: char| c.is_ascii_alphabetic());
    let is_missing = is_word && !rest.is_empty() && !rest.starts_with([' ', '\t', ':', '/']);
    is_missing.then(|| {
        let text = super::node::shorten(text);
        format!("in `{text}` a space is missing after the colon")
    })
}

fn lookalike(text: &str) -> Option<String> {
    let found = LOOKALIKES.iter().find(|(c, _)| text.contains(*c));
    found.map(|(_, what)| format!("line {{line}} contains {what}"))
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
}
