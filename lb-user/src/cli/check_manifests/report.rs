//! Verdicts on manifests: pure, from texts to a report.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use serde::Serialize;

use crate::{
    alloc::Allocations,
    compile::{self, NodeFacts},
    model::{
        finding::{Finding, Printable, Severity},
        object::{Kind, Labels, ObjectName, ObjectRef},
        service::Service,
    },
    source::{
        files::Files,
        manifest::{self, Judged, Outcome},
    },
    store::{Snapshot, Store},
};

/// A file that was read.
#[derive(Clone, Debug)]
pub struct FileText {
    /// Its name, as findings spell it.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// What became of some manifests.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Everything that was judged, in the order of files and lines.
    pub objects: Vec<Judgement>,
    /// Findings about files as a whole.
    pub files: Vec<Finding>,
    /// Files that could not be read.
    pub unread: Vec<Unread>,
    /// How many there are of what.
    pub counts: Counts,
}

/// What became of one object.
#[derive(Clone, Debug, Serialize)]
pub struct Judgement {
    /// The file as the user named it.
    pub file: String,
    /// The object's first line, from 1.
    pub line: usize,
    /// Kind, namespace and name as far as they are known.
    pub object: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// What was found about it, sorted by place.
    pub findings: Vec<Finding>,
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is used as it is written.
    Ok,
    /// It is read, but not or not all of it served as it is written.
    Used,
    /// It is not used, since something is wrong with it.
    Refused,
    /// It is of a kind that is not worked with.
    Foreign,
    /// It is no object.
    Unreadable,
}

/// A file that could not be read.
#[derive(Clone, Debug, Serialize)]
pub struct Unread {
    /// The file as the user named it.
    pub file: String,
    /// Why.
    pub error: String,
}

/// How many objects came to what, and how many findings of each severity there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Objects that are used as they are written.
    pub ok: usize,
    /// Objects that are read, but not or not all of them served as they are written.
    pub used: usize,
    /// Objects that are not used, since something is wrong with them.
    pub refused: usize,
    /// Objects of kinds that are not worked with.
    pub foreign: usize,
    /// What is no object.
    pub unreadable: usize,
    /// Findings of severity error.
    pub errors: usize,
    /// Findings of severity warning.
    pub warnings: usize,
    /// Findings of severity notice.
    pub notices: usize,
}

/// Judges files, each object alone and all of them together, for a node of which these facts are known.
pub fn judge(files: Vec<FileText>, facts: &NodeFacts) -> Report {
    let mut held = Files::default();
    let mut judged = BTreeMap::new();
    for file in files {
        let mut parsed = manifest::parse_bytes(&file.name, file.bytes);
        judged.insert(file.name.clone(), std::mem::take(&mut parsed.judged));
        held.insert(&file.name, parsed);
    }
    let scanned = held.merge();
    let mut store = Store::new([]);
    for change in scanned.changes {
        store.apply(change);
    }
    let snapshot = store.snapshot();
    let compiled = compile::compile(&snapshot, facts, &Allocations::default());
    let mut findings = scanned.findings;
    findings.extend(compiled.findings);
    findings.extend(without_pods(&snapshot));
    findings.sort();
    findings.dedup();
    Report::new(judged.into_values().flatten().collect(), findings)
}

impl Report {
    fn new(judged: Vec<Judged>, findings: Vec<Finding>) -> Self {
        let mut report = Self::default();
        let mut owned: Vec<Vec<Finding>> = vec![Vec::new(); judged.len()];
        let owners = Owners::new(&judged);
        for finding in findings {
            match finding.severity {
                Severity::Error => report.counts.errors += 1,
                Severity::Warning => report.counts.warnings += 1,
                Severity::Notice => report.counts.notices += 1,
            }
            match owners.of(&finding) {
                Some(index) => owned[index].push(finding),
                None => report.files.push(finding),
            }
        }
        for (judged, findings) in judged.into_iter().zip(owned) {
            let verdict = verdict(judged.outcome, &findings);
            *report.counts.of(verdict) += 1;
            report.objects.push(Judgement {
                file: judged.origin.file.to_string(),
                line: judged.origin.line,
                object: judged.label,
                verdict,
                findings,
            });
        }
        report
    }

    /// 0: all is good; 1: something is wrong; 2: something could not be read.
    pub fn exit_code(&self) -> u8 {
        match (
            self.unread.is_empty(),
            self.counts.errors + self.counts.warnings,
        ) {
            (false, _) => 2,
            (true, 0) => 0,
            (true, _) => 1,
        }
    }
}

impl Counts {
    fn of(&mut self, verdict: Verdict) -> &mut usize {
        match verdict {
            Verdict::Ok => &mut self.ok,
            Verdict::Used => &mut self.used,
            Verdict::Refused => &mut self.refused,
            Verdict::Foreign => &mut self.foreign,
            Verdict::Unreadable => &mut self.unreadable,
        }
    }
}

fn verdict(outcome: Outcome, findings: &[Finding]) -> Verdict {
    let worst = findings.iter().map(|finding| finding.severity).min();
    // One of two objects of a name is not used, whatever the text of the other says.
    let is_second = findings
        .iter()
        .any(|finding| finding.severity == Severity::Error && finding.field == "metadata.name");
    match outcome {
        Outcome::Used if is_second => Verdict::Refused,
        Outcome::Used => match worst {
            Some(Severity::Error | Severity::Warning) => Verdict::Used,
            Some(Severity::Notice) | None => Verdict::Ok,
        },
        Outcome::Refused => Verdict::Refused,
        Outcome::Foreign => Verdict::Foreign,
        Outcome::Unreadable => Verdict::Unreadable,
    }
}

/// Which judged object a finding is about.
struct Owners<'a> {
    judged: &'a [Judged],
    by_label: HashMap<(&'a str, usize, &'a str), Vec<usize>>,
}

impl<'a> Owners<'a> {
    fn new(judged: &'a [Judged]) -> Self {
        let mut by_label: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, one) in judged.iter().enumerate() {
            let key = (&*one.origin.file, one.origin.document, &*one.label);
            by_label.entry(key).or_default().push(index);
        }
        Self { judged, by_label }
    }

    fn of(&self, finding: &Finding) -> Option<usize> {
        let key = (&*finding.file, finding.document, &*finding.object);
        let candidates = self.by_label.get(&key)?;
        let line = |index: usize| self.judged[index].origin.line;
        // Items stand in the order of their lines, as long as no alias says otherwise.
        let after = candidates.partition_point(|index| line(*index) <= finding.line);
        candidates.get(after.saturating_sub(1)).copied()
    }
}

/// Services whose selector matches none of the pods that are given.
fn without_pods(snapshot: &Snapshot) -> Vec<Finding> {
    let mut by_label: HashMap<(&str, &str, &str), Vec<&Labels>> = HashMap::new();
    for (name, pod) in &snapshot.pods {
        let labels = &pod.object.meta.labels;
        for (key, value) in labels {
            let key = (&*name.namespace, &**key, &**value);
            by_label.entry(key).or_default().push(labels);
        }
    }
    let has_pod = |name: &ObjectName, service: &Service| {
        let selector = &service.spec.selector;
        let pods = selector.iter().map(|(key, value)| {
            let key = (&*name.namespace, &**key, &**value);
            by_label.get(&key).map(Vec::as_slice).unwrap_or_default()
        });
        let rarest = pods.min_by_key(|pods| pods.len()).unwrap_or_default();
        let matches = |labels: &&Labels| selector.iter().all(|(k, v)| labels.get(k) == Some(v));
        rarest.iter().any(matches)
    };
    let services = snapshot.services.iter().filter(|(name, service)| {
        !service.object.spec.selector.is_empty()
            && !service.object.is_external_name()
            && !has_pod(name, &service.object)
    });
    services
        .map(|(name, service)| {
            let reference = ObjectRef {
                kind: Kind::Service,
                name: name.clone(),
            };
            let message = "no pod of these manifests has these labels";
            let about = (&reference, &**service);
            Finding::about(Severity::Notice, about, "spec.selector", message)
        })
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for object in &self.objects {
            writeln!(f, "{object}")?;
        }
        for finding in &self.files {
            writeln!(f, "{finding}")?;
        }
        writeln!(f, "{}", self.counts)
    }
}

impl fmt::Display for Judgement {
    /// `FILE:LINE: OBJECT: VERDICT`, and a line per finding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = match &*self.object {
            "" => "(no object)",
            object => object,
        };
        let object = Printable(object);
        write!(f, "{}:{}: {object}: {}", self.file, self.line, self.verdict)?;
        for finding in &self.findings {
            let Finding {
                line,
                severity,
                field,
                message,
                ..
            } = finding;
            let colon = if field.is_empty() { "" } else { ": " };
            let (field, message) = (Printable(field), Printable(message));
            write!(f, "\n    line {line}: {severity}: {field}{colon}{message}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Used => "not served as it is written",
            Self::Refused => "refused",
            Self::Foreign => "not used",
            Self::Unreadable => "unreadable",
        })
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: cannot be read: {}", self.file, self.error)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.ok, "ok"),
            (self.used, "not served as written"),
            (self.refused, "refused"),
            (self.foreign, "not used"),
            (self.unreadable, "unreadable"),
        ];
        let told: Vec<_> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let total: usize = parts.iter().map(|(count, _)| count).sum();
        let plural = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        let colon = if told.is_empty() { "" } else { ": " };
        write!(
            f,
            "{}{colon}{}; {}, {}, {}",
            plural(total, "object"),
            told.join(", "),
            plural(self.errors, "error"),
            plural(self.warnings, "warning"),
            plural(self.notices, "notice"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIP: 10.96.0.1\n  \
                       selector: {app: web}\n  ports:\n  - {port: 80, targetPort: http}\n";

    fn report(texts: &[(&str, &str)]) -> Report {
        let files = texts.iter().map(|(name, text)| FileText {
            name: (*name).to_owned(),
            bytes: text.as_bytes().to_vec(),
        });
        let facts = NodeFacts {
            service_cidrs: vec!["10.96.0.0/12".parse().expect("literal")],
            ..NodeFacts::default()
        };
        judge(files.collect(), &facts)
    }

    #[test]
    fn all_good_is_zero_and_a_notice_is_good() {
        let report = report(&[("a", WEB)]);
        assert_eq!(report.exit_code(), 0);
        let text = report.to_string();
        let expected = "a:1: Service default/web: ok\n    line 1: notice: spec.selector: no pod of these manifests has \
                        these labels\n1 object: 1 ok; 0 errors, 0 warnings, 1 notice\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_shows_only_together_is_told_with_its_object() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: web}}\n\
                   spec: {containers: [{name: c, ports: [{name: other, containerPort: 80}]}]}\n";
        let other = WEB
            .replace("name: web", "name: other")
            .replace("0.1", "0.2");
        let third = other.replace("name: other", "name: third");
        let report = report(&[
            ("a", WEB),
            ("b", pod),
            ("c", &other),
            ("e", &third),
            ("d", WEB),
        ]);
        let told = |file: &str| {
            let object = report.objects.iter().find(|object| object.file == file);
            object.expect("judged").to_string()
        };
        assert!(told("a").contains("targetPort"), "{report}");
        assert!(
            told("e").contains("10.96.0.2 belongs to Service default/other"),
            "{report}"
        );
        assert!(
            told("d").contains("a:1") && told("d").contains("refused"),
            "{report}"
        );
        assert_eq!(report.exit_code(), 1);
    }

    #[test]
    fn every_thing_in_a_text_is_judged() {
        let text = format!(
            "kind: Ingress\napiVersion: networking.k8s.io/v1\n---\na: [\n---\n{WEB}---\n\
             {{apiVersion: v1, kind: List, items: [{{apiVersion: v1, kind: Node, metadata: {{name: UP}}}}]}}\n"
        );
        let report = report(&[("a", &text)]);
        let verdicts: Vec<_> = report.objects.iter().map(|object| object.verdict).collect();
        let expected = [
            Verdict::Foreign,
            Verdict::Unreadable,
            Verdict::Ok,
            Verdict::Refused,
        ];
        assert_eq!(verdicts, expected, "{report}");
        assert!(
            report
                .objects
                .iter()
                .all(|object| { object.verdict == Verdict::Ok || !object.findings.is_empty() })
        );
        assert_eq!(report.files, []);
    }
}
