//! Documents of a file: YAML separated by `---`, or JSON values one after the other.
//!
//! Documents are split before they are parsed, so that one that does not parse hides no other. (A
//! line that begins with `---` ends a document even inside a block scalar: YAML 1.2 §9.1.)
//!
//! What a document may cost is bounded: its size, its depth, the number of its values, and what its
//! aliases stand for. Nothing is read twice.

use serde::de::IgnoredAny;

use super::{
    advice::{advice, without_colon},
    encoding::Text,
    json,
    node::Node,
    yaml,
};

/// Largest document, in bytes of text.
pub(super) const MAX_DOCUMENT_BYTES: usize = 16 << 20;
/// Deepest nesting; no object comes near it.
pub(super) const MAX_DEPTH: usize = 100;
/// Most values of one document.
pub(super) const MAX_NODES: usize = 1_000_000;
/// Most commas of a YAML document: its parser holds a `[...]` or `{...}` whole before it tells of it.
const MAX_COMMAS: usize = 500_000;

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document<'a> {
    /// Position in the file, from 1.
    pub(super) number: usize,
    /// First line with content, from 1.
    pub(super) line: usize,
    /// Line of the `...` that ended the document before this one, if that is how this one begins.
    pub(super) after_dots: Option<usize>,
    text: &'a str,
    /// Line of the file at which `text` begins, from 1.
    text_line: usize,
    /// What is no text in it, and the line of that.
    bad: Option<&'a (usize, String)>,
}

/// Why a document cannot be read.
#[derive(Debug, PartialEq)]
pub(super) struct Broken {
    /// Line in the file, from 1.
    pub(super) line: usize,
    /// What is wrong.
    pub(super) message: String,
    /// What was read until there.
    pub(super) partial: Option<Node>,
}

/// Something worth telling about a line of a document that can be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remark {
    /// Line in the file, from 1.
    pub(super) line: usize,
    /// What is odd.
    pub(super) message: String,
}

/// The documents of a text; those without content are left out.
pub(super) fn split(text: &Text) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let whole = text.text.strip_prefix('\u{feff}').unwrap_or(&text.text);
    for chunk in chunks(whole) {
        for (text_of, line) in json_values(chunk.text, chunk.line) {
            let Some(content) = text_of.lines().position(has_content) else {
                continue;
            };
            let end = line + text_of.matches('\n').count();
            let first_bad = text.bad.partition_point(|(at, _)| *at < line);
            documents.push(Document {
                number: documents.len() + 1,
                line: line + content,
                after_dots: chunk.after_dots,
                text: text_of,
                text_line: line,
                bad: text.bad.get(first_bad).filter(|(at, _)| *at <= end),
            });
        }
    }
    documents
}

impl Document<'_> {
    /// The document's value; remarks are pushed.
    pub(super) fn parse(&self, remarks: &mut Vec<Remark>) -> Result<Node, Broken> {
        let refuse = |line, message| {
            Err(Broken {
                line,
                message,
                partial: None,
            })
        };
        if let Some((line, message)) = self.bad {
            return refuse(*line, message.clone());
        }
        if self.text.len() > MAX_DOCUMENT_BYTES {
            let message = format!(
                "the document has {} bytes; at most {MAX_DOCUMENT_BYTES} are read, so split it by `---`",
                self.text.len()
            );
            return refuse(self.line, message);
        }
        let opening = self.text.trim_start();
        let mut json_fault = None;
        if opening.starts_with('{') {
            match json::load(self.text, self.text_line) {
                Ok(node) => return Ok(node),
                // Not JSON after all: taken as YAML in flow style. If it is none, it was to be JSON.
                Err(broken) => json_fault = Some(broken),
            }
        }
        let inner = opening.strip_prefix('{').unwrap_or_default();
        let is_json = inner.trim_start().starts_with('"');
        let json_fault = json_fault.filter(|_| is_json);
        if self.text.matches(',').count() > MAX_COMMAS {
            if let Some(fault) = json_fault {
                return Err(fault);
            }
            let message = format!(
                "the document has more than {MAX_COMMAS} commas; split it by `---`, or write it as JSON"
            );
            return refuse(self.line, message);
        }
        match (yaml::load(self.text, self.text_line, remarks), json_fault) {
            (Ok(node), Some(Broken { line, message, .. })) => {
                let message = format!("this is no JSON ({message}) and read as YAML");
                remarks.push(Remark { line, message });
                Ok(node)
            }
            (Ok(node), None) => Ok(node),
            (Err(broken), Some(fault)) => Err(Broken {
                partial: broken.partial,
                ..fault
            }),
            (Err(broken), None) => Err(self.advised(broken)),
        }
    }

    fn advised(&self, mut broken: Broken) -> Broken {
        let last = self.text_line + self.text.lines().count().max(1) - 1;
        // What is missing at the end is missed after the last line.
        broken.line = broken.line.clamp(self.text_line, last);
        let line = broken.line - self.text_line + 1;
        if let Some((line, told)) = advice(self.text, line, self.text_line) {
            broken.line = line;
            broken.message = format!("{}; {told}", broken.message);
        } else if broken.message.starts_with("a line without a colon")
            && let Some(line) = without_colon(self.text, line)
        {
            broken.line = self.text_line + line - 1;
        }
        broken
    }
}

/// A part of a text between separator lines.
struct Chunk<'a> {
    text: &'a str,
    /// Its first line in the file, from 1.
    line: usize,
    after_dots: Option<usize>,
}

/// Parts of a text between separator lines. A separator with content behind it belongs to the part
/// that it opens.
fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    let mut after_dots = None;
    for (line_number, line) in (1..).zip(text.split_inclusive('\n')) {
        if is_marker(line, "---") || is_marker(line, "...") {
            chunks.push(Chunk {
                text: &text[start..offset],
                line: start_line,
                after_dots,
            });
            (start, start_line, after_dots) = (offset, line_number, None);
            let is_alone = line.trim_end() == "---";
            if is_alone || line.starts_with("...") {
                (start, start_line) = (offset + line.len(), line_number + 1);
            }
            if line.starts_with("...") {
                after_dots = Some(line_number);
            }
        }
        offset += line.len();
    }
    chunks.push(Chunk {
        text: &text[start..],
        line: start_line,
        after_dots,
    });
    chunks
}

/// JSON values that stand one after the other in a part; the rest of the part from where it is no
/// such thing.
fn json_values(text: &str, line: usize) -> Vec<(&str, usize)> {
    if !text.trim_start().starts_with('{') {
        return vec![(text, line)];
    }
    let mut values = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let (mut start, mut start_line) = (0, line);
    while let Some(value) = stream.next() {
        let end = if value.is_ok() {
            stream.byte_offset()
        } else {
            text.len()
        };
        values.push((&text[start..end], start_line));
        start_line += text[start..end].matches('\n').count();
        start = end;
        if value.is_err() {
            break;
        }
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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::source::encoding;

    fn each(text: &str) -> Vec<Result<Node, Broken>> {
        let text = encoding::decode(text.as_bytes().to_vec());
        let documents = split(&text);
        documents
            .iter()
            .map(|document| document.parse(&mut Vec::new()))
            .collect()
    }

    fn faults(text: &str) -> Vec<(usize, String)> {
        let faults = each(text).into_iter().filter_map(Result::err);
        faults.map(|broken| (broken.line, broken.message)).collect()
    }

    fn values(text: &str) -> Vec<Node> {
        each(text).into_iter().filter_map(Result::ok).collect()
    }

    #[test]
    fn documents_are_split_numbered_and_placed() {
        let text = "# nothing\n---\na: 1\n---\n\n# still nothing\n--- # third\n\nb: 2\n...\nc: 3\n";
        let decoded = encoding::decode(text.as_bytes().to_vec());
        let places: Vec<_> = split(&decoded)
            .iter()
            .map(|d| (d.number, d.line, d.after_dots))
            .collect();
        assert_eq!(places, [(1, 3, None), (2, 9, None), (3, 11, Some(10))]);
        assert_eq!(values(text).len(), 3);
        assert_eq!(values("\n---\n---\n"), []);
        let marked = values("\u{feff}%YAML 1.1\n---\r\na: 1\r\n");
        assert_eq!(marked[0].get("a").expect("a").line, 3);
    }

    #[test]
    fn json_values_may_follow_each_other_and_one_bad_one_hides_no_other() {
        let text = "{\"a\": 1}\n{\n\t\"b\": 2}\n{\"c\": 3,}\n";
        let found = values(text);
        assert_eq!(found.len(), 3, "YAML allows the last comma");
        assert_eq!(found[1].get("b").expect("b").line, 3);
        assert_eq!(faults("{\"a\": 1}\n{\"b\": }}\n")[0].0, 2);
        assert_eq!(values("{a: 1}\n").len(), 1, "YAML in flow style");
    }

    #[test]
    fn one_bad_document_hides_no_other_and_is_reported_at_its_line() {
        let text = "a: 1\n---\nb:\n  - x\n y: z\n---\nc: 3\n";
        assert_eq!(values(text).len(), 2);
        let faults = faults(text);
        assert_eq!(faults.len(), 1);
        assert!((3..=5).contains(&faults[0].0), "{faults:?}");
    }

    #[test]
    fn what_was_meant_is_told() {
        for (text, line, told) in [
            (
                "kind: Service\nspec:\n  a: b\n  type:NodePort\n",
                4,
                "`type:NodePort` a space is missing",
            ),
            ("kind: A\nspec:\n  a: b\n--\nkind: B\n", 4, "`--` in line 4"),
            ("spec:\n  a: b\n  ...\n", 3, "dots in line 3"),
            ("spec:\n  a: b\n  …\n", 3, "dots in line 3"),
            ("spec:\n\ta: b\n", 2, "indented by a tab"),
            ("spec:\n  a: {{ .x }}\n", 2, "template"),
            ("a: 1\n<<<<<<< HEAD\nb: 1\n", 2, "left over from a merge"),
            ("```yaml\na: 1\n", 1, "fence of Markdown"),
        ] {
            let faults = faults(text);
            assert_eq!(faults.len(), 1, "{text}");
            assert!(faults[0].1.contains(told), "{text}: {faults:?}");
            assert!(faults[0].0.abs_diff(line) <= 1, "{text}: {faults:?}");
        }
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
        assert!(faults(&laughs)[0].1.contains("aliases"));
        let square = format!(
            "a: &a [{}]\nb: [{}]\n",
            "x, ".repeat(400),
            "*a, ".repeat(400)
        );
        assert!(faults(&square)[0].1.contains("aliases"));
        for deep in [
            "[".repeat(100_000),
            "{a: ".repeat(100_000),
            "- ".repeat(100_000),
            format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)),
        ] {
            let faults = faults(&deep);
            assert!(faults[0].1.contains("deeper"), "{faults:?}");
        }
        let many = format!("[{}]", "0,".repeat(MAX_NODES));
        assert!(faults(&many)[0].1.contains("commas"));
        let json = format!("{{\"a\": [{}0]}}", "0,".repeat(MAX_NODES));
        assert!(faults(&json)[0].1.contains("values"));
        let many = "- 0\n".repeat(MAX_NODES);
        assert!(faults(&many)[0].1.contains("values"));
        let large = format!("a: {}", "x".repeat(MAX_DOCUMENT_BYTES));
        assert!(faults(&large)[0].1.contains("bytes"));
    }

    #[test]
    fn aliases_and_merges_mean_what_they_stand_for() {
        let text = "a: &a {p: 1, q: 2}\nb:\n  <<: *a\n  q: 3\nc: *a\nd: {<<: [*a, {z: 9}]}\n";
        let node = &values(text)[0];
        let number = |outer: &str, inner: &str| {
            node.get(outer)
                .and_then(|node| node.get(inner))
                .and_then(Node::scalar)
                .map(std::borrow::Cow::into_owned)
        };
        assert_eq!(number("b", "p").as_deref(), Some("1"));
        assert_eq!(number("b", "q").as_deref(), Some("3"));
        assert_eq!(number("c", "q").as_deref(), Some("2"));
        assert_eq!(number("d", "z").as_deref(), Some("9"));
        assert_eq!(number("d", "<<"), None);
        assert_eq!(faults("a: &a [*a]\n").len(), 1);
        assert_eq!(faults("a: *b\n").len(), 1);
    }
}
