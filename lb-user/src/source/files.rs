//! Several files as one set of objects.
//!
//! What was good stays: an object of a file that can no longer be read, or whose new version is
//! refused, keeps its last good version until the file says otherwise. Where a part of a file cannot
//! be read as any object, nobody can tell what it was, and nothing of that file goes away. One name
//! in several places is one object: the first file in order wins, and in a file the first document.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{Change, ScanResult, manifest::Parsed};
use crate::model::{
    finding::{Finding, Severity},
    object::{Located, Object, ObjectRef, Origin},
};

/// How many objects a finding lists by name.
const MAX_LISTED: usize = 5;

/// Files by name, and what has been told about them.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<String, File>,
    told: BTreeMap<ObjectRef, Located<Object>>,
}

#[derive(Debug, Default)]
struct File {
    objects: BTreeMap<ObjectRef, Located<Object>>,
    findings: Vec<Finding>,
}

impl Files {
    /// The file holds this now.
    pub fn insert(&mut self, name: &str, parsed: Parsed) {
        let old = self.files.remove(name).unwrap_or_default();
        let mut file = File {
            objects: BTreeMap::new(),
            findings: parsed.findings,
        };
        for located in parsed.objects {
            match file.objects.entry(located.object.reference()) {
                Entry::Vacant(place) => {
                    place.insert(located);
                }
                Entry::Occupied(first) => {
                    file.findings
                        .push(duplicate(first.key(), &first.get().origin, &located));
                }
            }
        }
        let mut kept = Vec::new();
        for (reference, located) in old.objects {
            let is_unclear = parsed.unknown || parsed.rejected.contains(&reference);
            if is_unclear && !file.objects.contains_key(&reference) {
                kept.push(reference.to_string());
                file.objects.insert(reference, located);
            }
        }
        if !kept.is_empty() {
            file.findings
                .push(Finding::about_file(Severity::Warning, name, stays(&kept)));
        }
        self.files.insert(name.to_owned(), file);
    }

    /// The file is there and cannot be read.
    pub fn fail(&mut self, name: &str, reason: &str) {
        let file = self.files.entry(name.to_owned()).or_default();
        file.findings = vec![Finding::about_file(Severity::Error, name, reason)];
        if !file.objects.is_empty() {
            let kept: Vec<_> = file.objects.keys().map(ObjectRef::to_string).collect();
            file.findings
                .push(Finding::about_file(Severity::Warning, name, stays(&kept)));
        }
    }

    /// Files of other names are gone.
    pub fn retain(&mut self, mut is_there: impl FnMut(&str) -> bool) {
        self.files.retain(|name, _| is_there(name));
    }

    /// What changed since the last call, and everything that is wrong now.
    pub fn merge(&mut self) -> ScanResult {
        let mut findings = self.findings();
        let mut all: BTreeMap<&ObjectRef, &Located<Object>> = BTreeMap::new();
        for file in self.files.values() {
            for (reference, located) in &file.objects {
                match all.entry(reference) {
                    Entry::Vacant(place) => {
                        place.insert(located);
                    }
                    Entry::Occupied(first) => {
                        findings.push(duplicate(reference, &first.get().origin, located));
                    }
                }
            }
        }
        let gone = self
            .told
            .keys()
            .filter(|reference| !all.contains_key(reference));
        let mut changes: Vec<_> = gone.cloned().map(Change::Delete).collect();
        let new = all
            .iter()
            .filter(|(reference, located)| self.told.get(reference) != Some(located));
        changes.extend(new.map(|(_, located)| Change::Upsert((*located).clone())));
        for change in &changes {
            match change {
                Change::Delete(reference) => drop(self.told.remove(reference)),
                Change::Upsert(located) => {
                    self.told
                        .insert(located.object.reference(), located.clone());
                }
                Change::Synced(_) => {}
            }
        }
        findings.sort();
        ScanResult { changes, findings }
    }

    /// Everything that is wrong in single files.
    pub fn findings(&self) -> Vec<Finding> {
        self.files
            .values()
            .flat_map(|file| file.findings.iter().cloned())
            .collect()
    }
}

fn duplicate(reference: &ObjectRef, first: &Origin, second: &Located<Object>) -> Finding {
    let message = format!("the object stands in {first} already, and that one is used; remove one");
    Finding::about(
        Severity::Error,
        (reference, second),
        "metadata.name",
        message,
    )
}

fn stays(kept: &[String]) -> String {
    let listed = kept
        .iter()
        .take(MAX_LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let more = kept.len().saturating_sub(MAX_LISTED);
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    format!("used as they were before this file went wrong: {listed}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::manifest;

    const A: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n";
    const B: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: b}\n";

    fn put(files: &mut Files, name: &str, text: &str) {
        files.insert(name, manifest::parse(name, text));
    }

    /// Changes in short: `+a` for a new or changed object, `-a` for one that is gone.
    fn short(result: &ScanResult) -> Vec<String> {
        let short = |change: &Change| match change {
            Change::Upsert(located) => format!("+{}", located.object.reference().name),
            Change::Delete(reference) => format!("-{}", reference.name),
            Change::Synced(source) => format!("synced {source}"),
        };
        result.changes.iter().map(short).collect()
    }

    #[test]
    fn only_differences_are_told() {
        let mut files = Files::default();
        put(&mut files, "1", &format!("{A}---\n{B}"));
        assert_eq!(short(&files.merge()), ["+a", "+b"]);
        assert_eq!(files.merge(), ScanResult::default());
        put(&mut files, "1", A);
        assert_eq!(short(&files.merge()), ["-b"]);
        files.retain(|_| false);
        assert_eq!(short(&files.merge()), ["-a"]);
    }

    #[test]
    fn the_first_file_wins_and_the_finding_names_both() {
        let mut files = Files::default();
        put(&mut files, "2.yaml", A);
        put(
            &mut files,
            "1.yaml",
            &A.replace("{name: a}", "{name: a, labels: {x: z}}"),
        );
        let result = files.merge();
        assert_eq!(short(&result), ["+a"]);
        let Change::Upsert(located) = &result.changes[0] else {
            panic!("an upsert")
        };
        assert_eq!(&*located.origin.file, "1.yaml");
        assert_eq!(result.findings.len(), 1);
        let text = result.findings[0].to_string();
        assert!(
            text.starts_with("2.yaml:1: error: Node a:") && text.contains("1.yaml:1"),
            "{text}"
        );
        files.retain(|name| name != "1.yaml");
        assert_eq!(short(&files.merge()), ["+a"]);
    }

    #[test]
    fn what_was_good_stays_while_its_file_is_bad() {
        let mut files = Files::default();
        put(&mut files, "1", &format!("{A}---\n{B}"));
        files.merge();
        files.fail("1", "permission denied");
        let result = files.merge();
        assert_eq!(short(&result), Vec::<String>::new());
        assert_eq!(result.findings.len(), 2);
        put(&mut files, "1", &format!("{A}---\nkind: [\n"));
        assert_eq!(short(&files.merge()), Vec::<String>::new());
        put(&mut files, "1", &format!("{A}---\n{}", B.replace('b', "B")));
        assert_eq!(
            short(&files.merge()),
            ["-b"],
            "`B` is refused by its own name"
        );
        put(&mut files, "1", &format!("{A}metadata: 1\n"));
        assert_eq!(short(&files.merge()), Vec::<String>::new());
        put(&mut files, "1", "");
        assert_eq!(short(&files.merge()), ["-a"]);
    }

    #[test]
    fn a_refused_object_keeps_its_last_good_version() {
        let mut files = Files::default();
        put(
            &mut files,
            "1",
            &format!("{A}spec: {{podCIDR: 10.0.0.0/24}}\n---\n{B}"),
        );
        files.merge();
        put(&mut files, "1", &format!("{A}spec: {{podCIDR: x}}\n"));
        let result = files.merge();
        assert_eq!(short(&result), ["-b"]);
        assert!(
            result.findings.iter().any(|f| f.message.contains("Node a")),
            "{result:?}"
        );
    }
}
