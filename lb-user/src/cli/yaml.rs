//! Objects as YAML in kubectl's style, for readers of every version of YAML.
//!
//! Keys are sorted and lists stand at the column of their key. A text that some version would take for something
//! else (`yes`, `012`, `1:20`, a date) is quoted; so is whatever is not plainly a word.

use std::{fmt::Write, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

use super::output::is_unprintable;

/// Words that YAML 1.1 or 1.2 takes for a truth value or nothing.
const WORDS: [&str; 11] = [
    "y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "<<",
];

/// A value as a document.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    if is_block(value) {
        block(value, 0, false, &mut out);
    } else {
        out = scalar(value);
        out.push('\n');
    }
    out
}

/// Whether a value takes lines of its own.
fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

/// Lines at `indent`; the first of them without it where something stands before it already.
fn block(value: &Value, indent: usize, has_begun: bool, out: &mut String) {
    let mut needs_indent = !has_begun;
    let mut begin = |out: &mut String| {
        if needs_indent {
            out.extend(std::iter::repeat_n(' ', indent));
        }
        needs_indent = true;
    };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                begin(out);
                out.push_str(&text(key));
                out.push(':');
                // A list needs no indentation of its own below its key.
                let deeper = if value.is_array() { indent } else { indent + 2 };
                entry(value, deeper, '\n', out);
            }
        }
        Value::Array(items) => {
            for item in items {
                begin(out);
                out.push('-');
                entry(item, indent + 2, ' ', out);
            }
        }
        other => out.push_str(&scalar(other)),
    }
}

/// What follows a key or a dash: a block after `gap`, or a scalar in the same line.
fn entry(value: &Value, indent: usize, gap: char, out: &mut String) {
    if is_block(value) {
        out.push(gap);
        block(value, indent, gap == ' ', out);
    } else {
        out.push(' ');
        out.push_str(&scalar(value));
        out.push('\n');
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        // Empty objects and lists, numbers, truth values and null are written as in JSON.
        other => other.to_string(),
    }
}

fn text(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if is_unprintable(c) || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}') => {
                // Writing to a text cannot fail.
                let _ = write!(quoted, "\\U{:08X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether every reader takes the bare text for a text.
fn is_plain(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok() {
        // Whole numbers with colons between them are one number to the base 60 in YAML 1.1.
        let is_one_number =
            !text.contains("::") && text.chars().all(|c| c == ':' || c.is_ascii_digit());
        return text.starts_with(|c: char| c.is_ascii_alphanumeric()) && !is_one_number;
    }
    let begins_a_word = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '/');
    let is_in_a_word = |c: char| c.is_ascii_alphanumeric() || "_-./:=+@(), ".contains(c);
    text.starts_with(begins_a_word)
        && text.chars().all(is_in_a_word)
        && !text.contains(": ")
        && !text.ends_with([':', ' '])
        && !WORDS.contains(&&*text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_look_like_kubectls() {
        let value = json!({
            "spec": {"ports": [{"port": 80, "name": "http"}, {"port": 53}], "ips": ["10.96.0.1", "fd00::1"], "none": []},
            "metadata": {"labels": {"a.example/b": "80", "c": "yes"}, "creationTimestamp": "2024-01-01T00:00:00Z"},
            "nested": [[1, 2], [{"a": {"b": null}}], {}],
            "status": {},
        });
        let expected = "\
metadata:
  creationTimestamp: \"2024-01-01T00:00:00Z\"
  labels:
    a.example/b: \"80\"
    c: \"yes\"
nested:
- - 1
  - 2
- - a:
      b: null
- {}
spec:
  ips:
  - 10.96.0.1
  - fd00::1
  none: []
  ports:
  - name: http
    port: 80
  - port: 53
status: {}
";
        assert_eq!(document(&value), expected);
        assert_eq!(document(&json!({})), "{}\n");
    }

    /// Texts that some reader may take for something else.
    const TEXTS: &[&str] = &[
        "",
        " ",
        "a",
        "a b",
        "a: b",
        "a:",
        "a #b",
        "#a",
        "- a",
        "-",
        "1",
        "1.5",
        "1e3",
        "0x1F",
        "012",
        "1_000",
        "1:20",
        "2024-01-01",
        "yes",
        "No",
        "ON",
        "null",
        "~",
        "true",
        "<<",
        "::1",
        "fd00::/64",
        "10.0.0.0/8",
        "two\nlines\n",
        "tab\there",
        "\"quoted\"",
        "back\\slash",
        "\u{1b}[0m",
        "ä ö",
        "\u{2028}",
        "*",
        "&a",
        "!a",
        "%a",
        "@a",
        "`a",
        "{a}",
        "[a]",
        "a, b",
        "key=value",
        "=",
        "?",
        "|",
        ">",
        "'",
        "kubernetes.io/x",
        "/",
        "\r",
        "\u{7f}\u{85}\u{0}",
        "-1",
        "+1",
        ".5",
        ".inf",
        "nan",
    ];

    #[test]
    fn every_text_is_read_as_it_was() {
        let list = TEXTS.iter().map(|text| json!(text)).collect::<Vec<_>>();
        let map = TEXTS.iter().map(|text| ((*text).to_owned(), json!(text)));
        let map: serde_json::Map<_, _> = map.collect();
        let value = json!({"list": list, "map": map});
        let written = document(&value);
        let read: Value = serde_yaml::from_str(&written).expect("YAML");
        assert_eq!(read, value, "{written}");
    }

    #[test]
    fn an_address_that_is_a_number_to_some_is_quoted() {
        let quoted = document(&json!("1:2:3:4:5:6:7:8"));
        assert_eq!(quoted, "\"1:2:3:4:5:6:7:8\"\n");
        assert_eq!(document(&json!("1:2:3:4:5:6:7:a")), "1:2:3:4:5:6:7:a\n");
        assert_eq!(document(&json!("1::8")), "1::8\n");
    }

    /// YAML and JSON that are shown are read again, whatever an annotation holds.
    #[test]
    fn what_no_text_may_hold_is_escaped() {
        for c in ['\u{7f}', '\u{85}', '\u{9b}', '\u{fffe}', '\u{ffff}'] {
            let value = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": "n", "annotations": {"note": format!("a{c}b")}},
            });
            let json = crate::cli::indented_json(&value).expect("a text");
            for text in [document(&value), json] {
                assert!(!text.contains(c), "{text:?}");
                let parsed = crate::source::manifest::parse("m", &text);
                assert_eq!(parsed.findings, [], "{text:?}");
                assert_eq!(parsed.objects[0].written().value(), value);
            }
        }
    }
}
