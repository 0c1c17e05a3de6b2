//! Documents of a file: YAML separated by `---`, or JSON values one after the other.
//!
//! Documents are split before they are parsed, so that one that does not parse hides no other. (A
//! line that begins with `---` ends a document even inside a block scalar: YAML 1.2 §9.1.) This is
//! the only module, with [`super::value`], that knows the YAML library.
//!
//! What a document may cost is bounded: its size, the growth by aliases, and the work spent on
//! finding the lines of findings.

use std::cell::Cell;

use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny};
use serde_json::Value;

use super::value::{self, Bounded};

/// Largest document, in bytes of text.
pub(super) const MAX_DOCUMENT_BYTES: usize = 16 << 20;
/// Bytes of text that may be read again, per document, to find the lines of findings.
const MAX_REREAD_BYTES: usize = 16 << 20;

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document<'a> {
    /// Position in the file, from 1.
    pub(super) number: usize,
    /// First line with content, from 1.
    pub(super) line: usize,
    text: &'a str,
    /// Line of the file at which `text` begins, from 1.
    text_line: usize,
    reread_left: Cell<usize>,
}

/// Why a document, or a value of it, is not what it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Line in the file, from 1.
    pub(super) line: usize,
    /// The field, where it is known.
    pub(super) field: String,
    /// What is wrong.
    pub(super) message: String,
}

/// The documents of a text; those without content are left out.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    for (text, line) in chunks(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        for (text, line) in json_values(text, line) {
            let Some(content) = text.lines().position(has_content) else {
                continue;
            };
            documents.push(Document {
                number: documents.len() + 1,
                line: line + content,
                text,
                text_line: line,
                reread_left: Cell::new(MAX_REREAD_BYTES),
            });
        }
    }
    documents
}

impl Document<'_> {
    /// The document's value.
    pub(super) fn parse(&self) -> Result<Value, Fault> {
        if self.text.len() > MAX_DOCUMENT_BYTES {
            let message = format!(
                "the document has {} bytes; at most {MAX_DOCUMENT_BYTES} are read",
                self.text.len()
            );
            return Err(Fault {
                line: self.line,
                field: String::new(),
                message,
            });
        }
        // Without aliases a value has no more nodes than its text has bytes.
        let budget = Cell::new(self.text.len() * 4 + 1024);
        if self.text.trim_start().starts_with('{') {
            let mut json = serde_json::Deserializer::from_str(self.text);
            if let Ok(value) = Bounded(&budget).deserialize(&mut json) {
                return Ok(value);
            }
            // Not JSON after all: what follows takes it as YAML in flow style, and reports.
            budget.set(self.text.len() * 4 + 1024);
        }
        Bounded(&budget)
            .deserialize(serde_yaml::Deserializer::from_str(self.text))
            .map_err(|error| self.fault(&error))
    }

    /// Line in the file of a field, or of the nearest that holds it.
    pub(super) fn line_of(&self, path: &str) -> usize {
        let mut steps = value::steps(path);
        while !steps.is_empty() && self.may_reread() {
            if let Some(line) = value::locate(self.text, &steps) {
                return self.text_line + line - 1;
            }
            steps.pop();
        }
        self.line
    }

    /// Why the value at a path is no `T`; `None` where the text does not tell.
    pub(super) fn explain<T: DeserializeOwned>(&self, path: &str) -> Option<Fault> {
        if !self.may_reread() {
            return None;
        }
        value::explain::<T>(self.text, &value::steps(path)).map(|error| self.fault(&error))
    }

    fn may_reread(&self) -> bool {
        let left = self.reread_left.get().checked_sub(self.text.len());
        self.reread_left.set(left.unwrap_or(0));
        left.is_some()
    }

    fn fault(&self, error: &serde_yaml::Error) -> Fault {
        let text = error.to_string();
        let line = context_line(&text)
            .or_else(|| error.location().map(|place| place.line()))
            .unwrap_or(self.line + 1 - self.text_line)
            // What is missing at the end is missed after the last line.
            .clamp(1, self.text.lines().count().max(1));
        let message = text.split(" at line ").next().unwrap_or(&text);
        let (field, message) = match message.split_once(": ") {
            Some((head, rest)) if !head.contains(' ') => (head, rest),
            _ => ("", message),
        };
        Fault {
            line: self.text_line + line - 1,
            field: field.to_owned(),
            message: format!("{message}{}", self.advice(line)),
        }
    }

    /// What is known to lead to syntax errors at a line.
    fn advice(&self, line: usize) -> String {
        let around = self
            .text
            .lines()
            .enumerate()
            .skip(line.saturating_sub(2))
            .take(3);
        for (at, text) in around {
            let text = text.trim();
            if text == "--" {
                let at = self.text_line + at;
                return format!("; `--` in line {at} does not separate documents, `---` does");
            }
            if at + 1 == line
                && let Some((key, rest)) = text.trim_start_matches("- ").split_once(':')
                && is_word(key)
                && !rest.is_empty()
                && !rest.starts_with([' ', '\t', ':'])
            {
                return format!("; in `{text}` a space is missing after the colon");
            }
        }
        String::new()
    }
}

/// Parts of a text between separator lines, each with its first line in the file. The separator
/// belongs to the part that it opens, since content may follow it on the same line.
fn chunks(text: &str) -> Vec<(&str, usize)> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (line_number, line) in (1..).zip(text.split_inclusive('\n')) {
        if is_marker(line, "---") || is_marker(line, "...") {
            chunks.push((&text[start..offset], start_line));
            (start, start_line) = (offset, line_number);
            if line.starts_with("...") {
                (start, start_line) = (offset + line.len(), line_number + 1);
            }
        }
        offset += line.len();
    }
    chunks.push((&text[start..], start_line));
    chunks
}

/// JSON values that stand one after the other in a part; the part itself where it is no such thing.
fn json_values(text: &str, line: usize) -> Vec<(&str, usize)> {
    if !text.trim_start().starts_with('{') {
        return vec![(text, line)];
    }
    let mut values = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let (mut start, mut start_line) = (0, line);
    while let Some(value) = stream.next() {
        if value.is_err() {
            return vec![(text, line)];
        }
        let end = stream.byte_offset();
        values.push((&text[start..end], start_line));
        start_line += text[start..end].matches('\n').count();
        start = end;
    }
    values
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(line: &str) -> bool {
    let line = if is_marker(line, "---") {
        &line[3..]
    } else {
        line
    };
    let line = line.trim();
    !line.is_empty() && !line.starts_with(['#', '%'])
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
}

/// Line at which the thing began whose end is missing: there, not where the parser noticed, is what
/// has to be mended.
fn context_line(message: &str) -> Option<usize> {
    let (_, context) = message.split_once(", while scanning ")?;
    let (_, line) = context.split_once(" at line ")?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn faults(text: &str) -> Vec<Fault> {
        split(text)
            .iter()
            .filter_map(|document| document.parse().err())
            .collect()
    }

    fn values(text: &str) -> Vec<Value> {
        split(text)
            .iter()
            .filter_map(|document| document.parse().ok())
            .collect()
    }

    #[test]
    fn documents_are_split_numbered_and_placed() {
        let text = "# nothing\n---\na: 1\n---\n\n# still nothing\n--- # third\n\nb: 2\n...\nc: 3\n";
        let places: Vec<_> = split(text).iter().map(|d| (d.number, d.line)).collect();
        assert_eq!(places, [(1, 3), (2, 9), (3, 11)]);
        assert_eq!(values(text).len(), 3);
        assert!(split("\n---\n---\n").is_empty());
        assert_eq!(
            values("%YAML 1.1\n---\r\na: 1\r\n"),
            [serde_json::json!({"a": 1})]
        );
    }

    #[test]
    fn json_values_may_follow_each_other() {
        let text = "{\"a\": 1}\n{\n\t\"b\": 2}\n";
        assert_eq!(
            values(text),
            [serde_json::json!({"a": 1}), serde_json::json!({"b": 2})]
        );
        assert_eq!(split(text)[1].line_of(""), 2);
    }

    #[test]
    fn one_bad_document_hides_no_other_and_is_reported_at_its_line() {
        let text = "a: 1\n---\nb:\n  - x\n y: z\n---\nc: 3\n";
        assert_eq!(values(text).len(), 2);
        let faults = faults(text);
        assert_eq!(faults.len(), 1);
        assert!((3..=5).contains(&faults[0].line), "{faults:?}");
    }

    #[test]
    fn a_missing_space_and_a_wrong_separator_are_named() {
        let faults_of = faults("kind: Service\nspec:\n  a: b\n  type:NodePort\n");
        assert_eq!(faults_of[0].line, 4);
        assert!(
            faults_of[0]
                .message
                .contains("`type:NodePort` a space is missing"),
            "{faults_of:?}"
        );
        let faults_of = faults("kind: Service\nspec:\n  a: b\n--\nkind: Service\n");
        assert!(
            faults_of[0].message.contains("`--` in line 4"),
            "{faults_of:?}"
        );
    }

    #[test]
    fn bombs_and_depth_are_refused() {
        let mut laughs = String::from("a0: &a0 [x]\n");
        for level in 1..30 {
            let inner = level - 1;
            let _ = writeln!(
                laughs,
                "a{level}: &a{level} [*a{inner}, *a{inner}, *a{inner}]"
            );
        }
        assert_eq!(faults(&laughs).len(), 1);
        assert_eq!(faults(&"[".repeat(100_000)).len(), 1);
        assert_eq!(
            faults(&format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000))).len(),
            1
        );
    }
}
