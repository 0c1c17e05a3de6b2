//! Any bytes as a file of manifests: judged without a panic, and nothing is refused without a reason.
//!
//! Every place that was judged and is not used has a finding that names its line or a later one; findings stay
//! bounded, name the file, and no line stands behind its end. The report of all of them comes out as well.

use lb_user::{
    cli::check_manifests::{FileText, judge},
    compile::NodeFacts,
    model::finding::{Finding, Severity},
    source::manifest::{self, Judged, Outcome, Parsed},
};

use super::cidrs;

const FILE: &str = "m.yaml";
/// More findings of one file than this are not told, but for the one that says so.
const MAX_FINDINGS: usize = 10_001;
/// Longest message in bytes: what it shows of the text is cut short, and what it names are fields of objects.
const MAX_MESSAGE: usize = 4_096;

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let parsed = manifest::parse_bytes(FILE, bytes.to_vec());
    findings_are_bounded(&parsed.findings, bytes);
    verdicts_are_founded(&parsed);
    let file = FileText {
        name: FILE.to_owned(),
        bytes: bytes.to_vec(),
    };
    let facts = NodeFacts {
        service_cidrs: cidrs(),
        ..NodeFacts::default()
    };
    let report = judge(vec![file], &facts);
    assert_eq!(report.objects.len(), parsed.judged.len());
    assert!(!report.to_string().is_empty());
}

fn findings_are_bounded(findings: &[Finding], bytes: &[u8]) {
    let n_lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(findings.len() <= MAX_FINDINGS);
    for finding in findings {
        assert_eq!(finding.file, FILE);
        assert!(finding.line <= n_lines, "{n_lines} lines: {finding:?}");
        assert!(!finding.message.is_empty(), "{finding:?}");
        assert!(
            finding.message.len() <= MAX_MESSAGE.max(bytes.len()),
            "{finding:?}"
        );
    }
}

/// What is refused or unreadable has an error of its own, what is foreign a notice.
fn verdicts_are_founded(parsed: &Parsed) {
    let used = parsed
        .judged
        .iter()
        .filter(|judged| judged.outcome == Outcome::Used);
    assert_eq!(used.count(), parsed.objects.len());
    if parsed.findings.len() == MAX_FINDINGS {
        return;
    }
    for judged in &parsed.judged {
        let severity = match judged.outcome {
            Outcome::Used => continue,
            Outcome::Foreign => Severity::Notice,
            Outcome::Refused | Outcome::Unreadable => Severity::Error,
        };
        assert!(
            parsed
                .findings
                .iter()
                .any(|finding| finding.severity == severity && is_about(finding, judged)),
            "no {severity:?} about {judged:?} in {:#?}",
            parsed.findings
        );
    }
    let is_error = |finding: &Finding| finding.severity == Severity::Error;
    assert!(!parsed.unknown || parsed.findings.iter().any(is_error));
}

fn is_about(finding: &Finding, judged: &Judged) -> bool {
    finding.document == judged.origin.document && finding.object == judged.label
}
