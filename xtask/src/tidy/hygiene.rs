//! Rules for every Rust file by itself: its size, its module docs, and what must not stand in it.

use std::collections::BTreeSet;

use super::{Finding, source::Source};

/// What the policy allows.
pub(super) struct Exceptions<'a> {
    pub(super) max_lines: usize,
    pub(super) unsafe_files: &'a [&'a str],
}

/// The integration tests; in other files, only what follows `#[cfg(test)]` is test code.
const TEST_DIR: &str = "tests/tests/";

const UNFINISHED: [&str; 3] = ["dbg", "todo", "unimplemented"];

pub(super) fn check(source: &Source, exceptions: &Exceptions<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let n_lines = source.text().lines().count();
    if n_lines > exceptions.max_lines {
        let rule = format!(
            "{n_lines} lines, more than {}; split it",
            exceptions.max_lines
        );
        findings.push(Finding::of_file(source.path(), rule));
    }
    if !has_module_docs(source.text()) {
        let rule = "no module docs (`//!`) that say what it guarantees";
        findings.push(Finding::of_file(source.path(), rule));
    }
    if !exceptions.unsafe_files.contains(&source.path()) {
        let rule = "unsafe code outside of the files that tidy allows it in";
        findings.extend(at(source, source.find(&["unsafe"]), rule));
    }
    for word in UNFINISHED {
        let rule = format!("{word}! must not be committed");
        findings.extend(at(source, source.find(&[word, "!"]), &rule));
    }
    let rule = "#[ignore] hides a test; skip with a printed reason instead";
    findings.extend(at(source, source.find(&["#", "[", "ignore"]), rule));
    let rule = "allow without a reason; prefer #[expect(..., reason = \"...\")]";
    findings.extend(at(source, bare_allows(source), rule));
    let rule = "a test that sleeps; poll with a deadline instead";
    findings.extend(at(source, sleeps_in_tests(source), rule));
    findings
}

/// Exceptions that nothing needs any more.
pub(super) fn stale_exceptions(
    exceptions: &Exceptions<'_>,
    with_unsafe: &BTreeSet<String>,
) -> Vec<Finding> {
    let unused = exceptions
        .unsafe_files
        .iter()
        .filter(|path| !with_unsafe.contains(**path));
    unused
        .map(|path| {
            Finding::of_file(
                path,
                "holds no unsafe code; take it off the list in xtask/src/tidy.rs",
            )
        })
        .collect()
}

fn at(source: &Source, positions: impl Iterator<Item = usize>, rule: &str) -> Vec<Finding> {
    positions
        .map(|idx| Finding::at(source.path(), source.tokens()[idx].line, rule))
        .collect()
}

/// Module docs stand before the first item; attributes and comments may stand before them.
fn has_module_docs(text: &str) -> bool {
    text.lines()
        .map(str::trim)
        .find(|line| {
            let is_comment = line.starts_with("//") && !line.starts_with("//!");
            !(line.is_empty() || is_comment || line.starts_with("#!["))
        })
        .is_some_and(|line| line.starts_with("//!"))
}

fn bare_allows(source: &Source) -> impl Iterator<Item = usize> {
    source.find(&["[", "allow", "("]).filter(|start| {
        let attribute = source.tokens()[*start..].iter();
        !attribute
            .take_while(|token| token.text != "]")
            .any(|token| token.text == "reason")
    })
}

fn sleeps_in_tests(source: &Source) -> impl Iterator<Item = usize> {
    let tests_start = if source.path().starts_with(TEST_DIR) {
        Some(0)
    } else {
        source
            .find(&["#", "[", "cfg", "(", "test", ")", "]", "mod"])
            .next()
    };
    source
        .find(&["sleep", "("])
        .filter(move |idx| tests_start.is_some_and(|start| *idx >= start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCEPTIONS: Exceptions<'_> = Exceptions {
        max_lines: 5,
        unsafe_files: &["allowed.rs"],
    };

    fn rules(path: &str, text: &str) -> Vec<String> {
        let source = Source::new(path.to_owned(), text.to_owned());
        let findings = check(&source, &EXCEPTIONS);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_tidy_file_has_no_findings() {
        assert!(rules("a.rs", "//! Docs.\nfn f() {}\n").is_empty());
    }

    #[test]
    fn the_limit_of_lines_is_the_last_length_allowed() {
        let lines = |n: usize| format!("//! Docs.{}", "\n//".repeat(n - 1));
        assert!(rules("a.rs", &lines(5)).is_empty());
        assert_eq!(
            rules("a.rs", &lines(6)),
            ["a.rs: 6 lines, more than 5; split it"]
        );
    }

    #[test]
    fn module_docs_come_before_items_and_after_attributes() {
        assert!(rules("a.rs", "// A licence.\n#![no_std]\n//! Docs.").is_empty());
        for text in ["", "use a;\n//! Docs.", "/// Docs of an item.\nfn f() {}"] {
            let found = rules("a.rs", text);
            assert!(
                found.len() == 1 && found[0].contains("no module docs"),
                "{text}: {found:?}"
            );
        }
    }

    #[test]
    fn unsafe_code_is_found_where_it_is_not_allowed() {
        let text = "//! Docs.\n// unsafe\n#![forbid(unsafe_code)]\nunsafe {}";
        assert!(rules("allowed.rs", text).is_empty());
        let found = rules("a.rs", text);
        assert!(
            found.len() == 1 && found[0].starts_with("a.rs:4: unsafe code"),
            "{found:?}"
        );
    }

    #[test]
    fn an_exception_that_is_not_used_is_a_finding() {
        let used = BTreeSet::from(["allowed.rs".to_owned()]);
        assert!(stale_exceptions(&EXCEPTIONS, &used).is_empty());
        assert_eq!(stale_exceptions(&EXCEPTIONS, &BTreeSet::new()).len(), 1);
    }

    #[test]
    fn each_forbidden_construct_is_found_once_and_only_in_code() {
        for text in [
            "todo!()",
            "unimplemented!()",
            "dbg!(1)",
            "#[ignore] fn f() {}",
            "#[allow(dead_code)]",
        ] {
            assert_eq!(
                rules("a.rs", &format!("//! Docs.\n{text}")).len(),
                1,
                "{text}"
            );
            assert!(
                rules("a.rs", &format!("//! Docs.\n// {text}")).is_empty(),
                "{text}"
            );
        }
    }

    #[test]
    fn an_allow_with_a_reason_is_accepted() {
        let text = "//! Docs.\n#![allow(\n dead_code,\n reason = \"why\")]\n";
        assert!(rules("a.rs", text).is_empty());
    }

    #[test]
    fn only_tests_must_not_sleep() {
        let text = "//! Docs.\nfn f() { thread::sleep(D); }";
        assert!(rules("lb-user/src/a.rs", text).is_empty());
        assert_eq!(rules("tests/tests/a.rs", text).len(), 1);
        let module = "//! Docs.\n#[cfg(test)]\nmod tests { fn f() { sleep(D) } }";
        assert_eq!(rules("lb-user/src/a.rs", module).len(), 1);
    }
}
