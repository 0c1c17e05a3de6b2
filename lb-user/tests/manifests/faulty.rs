//! Faulty manifests, each between two good objects that must not feel it.
//!
//! A case of `testdata/faulty/*.cases` begins with `=== NAME`. `@service` in its first line stands for the beginning of a
//! Service. A line `> FINDING` is a finding to the letter, its line counted from the case's first; `~ WORDS` is one that
//! has all of these words. Where there is no `~`, there are no other findings. `UPDATE_FAULTY=1` writes the `>` lines anew;
//! review the difference.

use std::{env, fmt::Write as _, fs, path::Path};

use lb_user::{
    model::finding::{Finding, Severity},
    source::manifest,
};

use super::testdata;

/// Rewrites what is expected.
const UPDATE_VARIABLE: &str = "UPDATE_FAULTY";
const BEFORE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: before}\nspec: {ports: [{port: 80}]}\n---\n";
const AFTER: &str =
    "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: after}\nspec: {ports: [{port: 80}]}\n";
const GOOD: [&str; 2] = ["Service default/before", "Service default/after"];
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: case\n";

struct Case {
    name: String,
    /// As it is written, and as it is read.
    written: String,
    text: String,
    exact: Vec<String>,
    loose: Vec<String>,
}

fn cases(text: &str) -> Vec<Case> {
    let parts = text.split("=== ").skip(1);
    parts.map(case).collect()
}

fn case(part: &str) -> Case {
    let (name, body) = part.split_once('\n').expect("a name");
    let mut case = Case {
        name: name.to_owned(),
        written: String::new(),
        text: String::new(),
        exact: Vec::new(),
        loose: Vec::new(),
    };
    for line in body.lines() {
        if let Some(exact) = line.strip_prefix("> ") {
            case.exact.push(exact.to_owned());
        } else if let Some(loose) = line.strip_prefix("~ ") {
            case.loose.push(loose.to_owned());
        } else {
            case.written.push_str(line);
            case.written.push('\n');
        }
    }
    let text = case.written.replacen("@service\n", SERVICE, 1);
    case.text = text
        .trim_end_matches('\n')
        .replace("\\t", "\t")
        .replace("\\0", "\0")
        .replace("\\u00a0", "\u{a0}");
    case
}

/// What was found about the case alone, and that the good objects around it feel nothing.
fn findings(case: &Case) -> Vec<Finding> {
    for (before, good) in [("", &GOOD[1..]), (BEFORE, &GOOD[..])] {
        let parsed = manifest::parse("m", &format!("{before}{}{AFTER}", case.text));
        for good in good {
            let mut objects = parsed.objects.iter();
            let is_good = |name: String| name == *good;
            assert!(
                objects.any(|o| is_good(o.reference().to_string())),
                "{}: {good}",
                case.name
            );
            let about = parsed
                .findings
                .iter()
                .find(|finding| finding.object == *good);
            assert_eq!(about, None, "{}", case.name);
        }
        let first = before.matches('\n').count();
        let last = first + case.text.matches('\n').count() + 2;
        for finding in &parsed.findings {
            assert!(
                (first + 1..=last).contains(&finding.line),
                "{}: {finding}",
                case.name
            );
        }
    }
    // With nothing before it, so that the lines are its own.
    manifest::parse("m", &format!("{}{AFTER}", case.text)).findings
}

fn check(case: &Case, failures: &mut String) {
    let found: Vec<String> = findings(case).iter().map(ToString::to_string).collect();
    for loose in &case.loose {
        let has_all = |line: &String| loose.split(' ').all(|word| line.contains(word));
        if !found.iter().any(has_all) {
            let _ = writeln!(
                failures,
                "{}: no finding with {loose}: {found:#?}",
                case.name
            );
        }
    }
    let is_exact = case.loose.is_empty();
    let differs =
        case.exact.iter().any(|line| !found.contains(line)) || is_exact && case.exact != found;
    if differs {
        let _ = writeln!(failures, "{}: {found:#?}, not {:#?}", case.name, case.exact);
    }
    if found.is_empty() {
        let _ = writeln!(failures, "{}: nothing was found", case.name);
    }
}

fn updated(head: &str, cases: &[Case]) -> String {
    let mut text = head.to_owned();
    for case in cases {
        let _ = write!(
            text,
            "=== {}\n{}\n",
            case.name,
            case.written.trim_end_matches('\n')
        );
        for loose in &case.loose {
            let _ = writeln!(text, "~ {loose}");
        }
        if case.loose.is_empty() {
            for finding in findings(case) {
                let _ = writeln!(text, "> {finding}");
            }
        }
        text.push('\n');
    }
    text
}

fn run(path: &Path, failures: &mut String) -> usize {
    let text = fs::read_to_string(path).expect("text");
    let cases = cases(&text);
    if env::var_os(UPDATE_VARIABLE).is_some() {
        let head = text.split("=== ").next().unwrap_or_default();
        fs::write(path, updated(head, &cases)).expect("written");
        return cases.len();
    }
    for case in &cases {
        check(case, failures);
    }
    cases.len()
}

#[test]
fn every_fault_is_named_and_touches_nothing_else() {
    let (mut count, mut failures) = (0, String::new());
    for entry in fs::read_dir(testdata("faulty")).expect("a directory") {
        count += run(&entry.expect("an entry").path(), &mut failures);
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(count >= 120, "{count}");
}

#[test]
fn bytes_that_are_no_text_touch_nothing_else() {
    for (bad, told) in [
        (&b"kind: \xff\xfe\n"[..], "0xff"),
        (b"a: \0\0\n", "U+0000"),
        (b"\x89PNG\r\n\x1a\n\0\0", "0x89"),
        (b"a: \xef\xbb\xbf\xc3(\n", "0xc3"),
        (b"\x1b[31mkind: Service\x1b[0m\n", "U+001B"),
    ] {
        let bytes = [BEFORE.as_bytes(), bad, AFTER.as_bytes()].concat();
        let parsed = manifest::parse_bytes("m", bytes);
        assert_eq!(parsed.objects.len(), 2);
        let [finding] = &parsed.findings[..] else {
            panic!("{:?}", parsed.findings)
        };
        assert_eq!((finding.line, finding.severity), (6, Severity::Error));
        assert!(finding.message.contains(told), "{finding}");
    }
}
