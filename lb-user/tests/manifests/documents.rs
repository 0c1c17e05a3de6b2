//! Every fenced block of the documents in `testdata/documents` through `check-manifests`.
//!
//! Beside each document stands what is to be seen, block by block, with the document's own lines; also which blocks are
//! no YAML, so that none is left out in silence. `UPDATE_DOCUMENTS=1` writes down what is to be seen now; review the
//! difference.

use std::{env, fmt::Write as _, fs, path::Path};

use lb_user::cli::check_manifests::Verdict;

use super::{judge, testdata};

/// Rewrites what is expected.
const UPDATE_VARIABLE: &str = "UPDATE_DOCUMENTS";

/// A fenced block of Markdown.
struct Block {
    /// Line of its first line of content, from 1.
    line: usize,
    /// What stands behind the opening fence.
    info: String,
    text: String,
}

/// The fenced blocks of a document, those in lists and quotations too.
fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, usize, Block)> = None;
    for (number, line) in (1..).zip(document.lines()) {
        let unquoted = line.trim_start_matches("> ");
        let trimmed = unquoted.trim_start();
        let indent = unquoted.len() - trimmed.len();
        open = match open {
            None => fence(trimmed).map(|fence| {
                let info = trimmed[fence.len()..].trim().to_lowercase();
                let (line, text) = (number + 1, String::new());
                (fence, indent, Block { line, info, text })
            }),
            Some((fence, _, block)) if trimmed.trim_end() == fence => {
                blocks.push(block);
                None
            }
            Some((fence, indent, mut block)) => {
                let blank = unquoted.len() - trimmed.len();
                block.text.push_str(&unquoted[indent.min(blank)..]);
                block.text.push('\n');
                Some((fence, indent, block))
            }
        };
    }
    assert!(open.is_none(), "a fence is not closed");
    blocks
}

fn fence(line: &str) -> Option<String> {
    let mark = line.chars().next().filter(|mark| "`~".contains(*mark))?;
    let fence: String = line.chars().take_while(|c| *c == mark).collect();
    (fence.len() >= 3).then_some(fence)
}

/// What says that it is YAML, and what begins with a field.
fn is_yaml(block: &Block) -> bool {
    let is_left_out =
        |line: &str| line.is_empty() || line.starts_with('#') || matches!(line, "..." | "…");
    let first = block
        .text
        .lines()
        .map(str::trim)
        .find(|line| !is_left_out(line));
    let is_field = |line: &str| {
        let line = line.trim_start_matches("- ");
        line.split_once(':').is_some_and(|(key, rest)| {
            key.starts_with(|c: char| c.is_ascii_lowercase())
                && key.chars().all(|c| c.is_ascii_alphanumeric())
                && (rest.is_empty() || rest.starts_with(' '))
        })
    };
    matches!(&*block.info, "yaml" | "yml") || first.is_some_and(is_field)
}

fn verdicts(name: &str, document: &str) -> String {
    let mut out = String::new();
    for block in blocks(document) {
        if !is_yaml(&block) {
            let first = block.text.lines().next().unwrap_or_default();
            let first: String = first.trim().chars().take(40).collect();
            let _ = writeln!(out, "# {}: no YAML: {first}\n", block.line);
            continue;
        }
        // The block's lines are the document's.
        let text = "\n".repeat(block.line - 1) + &block.text;
        let report = judge(name, text);
        for object in &report.objects {
            let is_good = matches!(object.verdict, Verdict::Ok);
            assert!(is_good || !object.findings.is_empty(), "{object}");
        }
        let _ = writeln!(out, "{report}");
    }
    out
}

#[test]
fn every_block_of_the_documents_has_its_verdict() {
    let mut documents: Vec<_> = fs::read_dir(testdata("documents"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    documents.sort();
    assert_eq!(documents.len(), 5);
    for path in documents {
        let name = path.file_name().expect("a name").to_string_lossy();
        let seen = verdicts(&name, &fs::read_to_string(&path).expect("text"));
        compare(&path.with_extension("verdicts"), &seen);
    }
}

/// Compares with what is expected, or writes it down.
pub(super) fn compare(path: &Path, seen: &str) {
    if env::var_os(UPDATE_VARIABLE).is_some() {
        fs::write(path, seen).expect("written");
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    for (number, (expected, seen)) in (1..).zip(expected.lines().zip(seen.lines())) {
        assert_eq!(
            seen,
            expected,
            "{}:{number}; {UPDATE_VARIABLE}=1 rewrites",
            path.display()
        );
    }
    assert_eq!(
        seen.lines().count(),
        expected.lines().count(),
        "{}",
        path.display()
    );
}

#[test]
fn fences_in_lists_and_quotations_are_found() {
    let found = blocks("- a\n  ~~~yaml\n  a: 1\n    b\n  ~~~\n> ```\n> c\n> ```\n");
    let texts: Vec<_> = found.iter().map(|b| (b.line, &*b.info, &*b.text)).collect();
    assert_eq!(texts, [(3, "yaml", "a: 1\n  b\n"), (7, "", "c\n")]);
}
