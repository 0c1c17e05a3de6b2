//! Many packets, one JSON object per line each way.
//!
//! Other keys than those of a packet are the asker's own, as what he expects.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::{CLIENT_PORT, address, output, protocol};
use crate::{
    causes::with_causes,
    desired::Protocol,
    trace::{Entry, Question, Traced},
};

/// What a line need not say.
pub(super) struct Line {
    pub(super) entry: Option<Entry>,
    pub(super) protocol: Protocol,
}

/// All lines that are not blank.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<String>> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_string(&mut text).map(drop)
    } else {
        fs::read_to_string(path).map(|read| text = read)
    };
    read.with_context(|| format!("cannot read the packets in {}", path.display()))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// Prints one line for each line.
pub(super) fn answer(
    lines: &[String],
    defaults: &Line,
    mut ask: impl FnMut(&Question) -> anyhow::Result<Traced>,
) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    for line in lines {
        let answer = match question(line, defaults) {
            Ok(question) => match ask(&question) {
                Ok(traced) => serde_json::to_value(traced)?,
                Err(error) => fault(question.name.as_deref(), &with_causes(error.as_ref())),
            },
            Err((name, error)) => fault(name.as_deref(), &error),
        };
        text += &serde_json::to_string(&answer)?;
        text.push('\n');
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn fault(name: Option<&str>, error: &str) -> Value {
    json!({"name": name, "error": error})
}

/// The packet of a line, or its name and what is wrong with it.
fn question(line: &str, defaults: &Line) -> Result<Question, (Option<String>, String)> {
    let value: Value = serde_json::from_str(line)
        .map_err(|error| (None, format!("the line is no JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err((None, "the line is no JSON object".to_owned()));
    };
    let name = fields
        .get("name")
        .and_then(Value::as_str)
        .map(str::to_owned);
    read_fields(&fields, name.clone(), defaults).map_err(|error| (name, error))
}

fn read_fields(
    fields: &Map<String, Value>,
    name: Option<String>,
    defaults: &Line,
) -> Result<Question, String> {
    let text = |key: &str| match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(other) => Err(format!("{key}: {other} is no string")),
    };
    text("name")?;
    let entry = match text("in")? {
        None => defaults.entry,
        Some(text) => {
            let entry = <Entry as clap::ValueEnum>::from_str(text, true);
            Some(entry.map_err(|_| format!("in: {text:?} is none of pod, uplink, host"))?)
        }
    };
    let given = |key: &str| text(key)?.ok_or_else(|| format!("{key} is missing"));
    Ok(Question {
        name,
        entry: entry.ok_or("in is missing, and so is --in: pod, uplink or host")?,
        from: address(given("from")?, Some(CLIENT_PORT))
            .map_err(|error| format!("from: {error}"))?,
        to: address(given("to")?, None).map_err(|error| format!("to: {error}"))?,
        protocol: match text("protocol")? {
            None => defaults.protocol,
            Some(text) => protocol(text).map_err(|error| format!("protocol: {error}"))?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Line = Line {
        entry: Some(Entry::Pod),
        protocol: Protocol::Tcp,
    };

    #[test]
    fn a_line_says_what_the_flags_leave_open() {
        let line =
            r#"{"name":"a","in":"host","from":"10.0.0.1","to":"10.96.0.1:53","protocol":"UDP"}"#;
        let found = question(line, &DEFAULTS).expect("valid");
        assert_eq!(found.name.as_deref(), Some("a"));
        assert_eq!((found.entry, found.protocol), (Entry::Host, Protocol::Udp));
        assert_eq!(found.from.port(), CLIENT_PORT);
        let line = r#"{"from":"10.0.0.1:7","to":"10.96.0.1:53"}"#;
        let found = question(line, &DEFAULTS).expect("valid");
        assert_eq!((found.entry, found.protocol), (Entry::Pod, Protocol::Tcp));
    }

    #[test]
    fn a_bad_line_is_named_and_told_what_is_wrong() {
        for (line, name, part) in [
            ("{", None, "no JSON"),
            ("[]", None, "no JSON object"),
            (r#"{"name":"a"}"#, Some("a"), "from is missing"),
            (
                r#"{"name":"a","from":"10.0.0.1"}"#,
                Some("a"),
                "to is missing",
            ),
            (
                r#"{"name":"a","from":"x","to":"10.0.0.1:80"}"#,
                Some("a"),
                "not an address",
            ),
            (
                r#"{"name":"a","from":"10.0.0.1","to":"10.0.0.2"}"#,
                Some("a"),
                "port is missing",
            ),
            (
                r#"{"name":"a","in":"lan","from":"10.0.0.1","to":"10.0.0.2:1"}"#,
                Some("a"),
                "in:",
            ),
            (
                r#"{"name":"a","from":1,"to":"10.0.0.2:1"}"#,
                Some("a"),
                "no string",
            ),
            (
                r#"{"name":"a","form":"10.0.0.1","to":"10.0.0.2:1"}"#,
                Some("a"),
                "from is missing",
            ),
        ] {
            let (found, error) = question(line, &DEFAULTS).expect_err(line);
            assert_eq!(found.as_deref(), name, "{line}");
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
