//! Several files as one set of objects.
//!
//! What was good stays: an object of a file that can no longer be read, or whose new version is
//! refused, keeps its last good version until the file says otherwise. Where a part of a file cannot
//! be read as any object, nobody can tell what it was, and nothing of that file goes away. One name
//! in several places is one object: the first file in order wins, and in a file the first document.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use super::{Change, ScanResult, manifest::Parsed};
use crate::{
    model::{
        finding::{Finding, Severity},
        object::{Object, ObjectRef, Origin},
    },
    small_set::SmallSet,
};

/// How many objects a finding lists by name.
const MAX_LISTED: usize = 5;

/// Files by name, and what has been told about them. What is told costs what differs.
#[derive(Debug, Default)]
pub struct Files {
    by_name: BTreeMap<Arc<str>, File>,
    held: BTreeMap<ObjectRef, Held>,
    /// Objects of which files may say something else than was told.
    touched: BTreeSet<ObjectRef>,
    /// Objects that stand in several files, with what is said of all but the first.
    duplicates: BTreeMap<ObjectRef, Vec<Finding>>,
}

#[derive(Debug, Default)]
struct File {
    /// Sorted by kind and name.
    objects: Box<[Object]>,
    findings: Vec<Finding>,
}

/// One name of an object.
#[derive(Debug, Default)]
struct Held {
    /// Files that it stands in.
    files: SmallSet<Arc<str>>,
    /// What was told of it last.
    told: Option<Object>,
}

impl File {
    fn get(&self, reference: &ObjectRef) -> Option<&Object> {
        let key = (reference.kind, &reference.name);
        let at = self.objects.binary_search_by(|there| there.key().cmp(&key));
        self.objects.get(at.ok()?)
    }
}

impl Files {
    /// The file holds this now.
    pub fn insert(&mut self, name: &str, parsed: Parsed) {
        let name: Arc<str> = name.into();
        let old = self.by_name.remove(&name).unwrap_or_default();
        let mut findings = parsed.findings;
        let mut objects = BTreeMap::new();
        for object in parsed.objects {
            match objects.entry(object.reference()) {
                Entry::Vacant(place) => {
                    // What is equal is shared with what was told.
                    let known = old.get(place.key()).filter(|known| **known == object);
                    place.insert(known.cloned().unwrap_or(object));
                }
                Entry::Occupied(first) => {
                    findings.push(duplicate(first.key(), first.get().origin(), &object));
                }
            }
        }
        let mut kept = Vec::new();
        for object in &old.objects {
            let reference = object.reference();
            let is_unclear = parsed.unknown || parsed.rejected.contains(&reference);
            if is_unclear && !objects.contains_key(&reference) {
                kept.push(reference.to_string());
                objects.insert(reference, object.clone());
            }
        }
        if !kept.is_empty() {
            findings.push(Finding::about_file(Severity::Warning, &name, stays(&kept)));
        }
        let objects = objects.into_values().collect();
        let file = File { objects, findings };
        self.hold(&name, &old, &file);
        self.by_name.insert(name, file);
    }

    /// The file is there and cannot be read.
    pub fn fail(&mut self, name: &str, reason: &str) {
        let file = self.by_name.entry(name.into()).or_default();
        file.findings = vec![Finding::about_file(Severity::Error, name, reason)];
        if !file.objects.is_empty() {
            let references = file.objects.iter().map(Object::reference);
            let kept: Vec<_> = references.map(|it| it.to_string()).collect();
            file.findings
                .push(Finding::about_file(Severity::Warning, name, stays(&kept)));
        }
    }

    /// Files of other names are gone.
    pub fn retain(&mut self, mut is_there: impl FnMut(&str) -> bool) {
        let gone: Vec<_> = self
            .by_name
            .extract_if(.., |name, _| !is_there(name))
            .collect();
        for (name, file) in gone {
            self.hold(&name, &file, &File::default());
        }
    }

    /// Notes what a file holds, and what of it is others than before.
    fn hold(&mut self, name: &Arc<str>, old: &File, new: &File) {
        let gone = old.objects.iter().map(Object::reference);
        for reference in gone.filter(|it| new.get(it).is_none()) {
            if let Some(held) = self.held.get_mut(&reference) {
                held.files.remove(name);
            }
            self.touched.insert(reference);
        }
        for object in &new.objects {
            let reference = object.reference();
            let known = old.get(&reference);
            if known.is_none() {
                let held = self.held.entry(reference.clone()).or_default();
                held.files.insert(Arc::clone(name));
            }
            if known != Some(object) {
                self.touched.insert(reference);
            }
        }
    }

    /// What changed since the last call, and everything that is wrong now.
    pub fn merge(&mut self) -> ScanResult {
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for reference in std::mem::take(&mut self.touched) {
            let Some(held) = self.held.get_mut(&reference) else {
                continue;
            };
            let by_name = &self.by_name;
            let stand = |name: &Arc<str>| by_name.get(name)?.get(&reference);
            let mut places = held.files.iter().filter_map(stand);
            self.duplicates.remove(&reference);
            let Some(first) = places.next() else {
                gone.extend(held.told.take().map(|_| Change::Delete(reference.clone())));
                self.held.remove(&reference);
                continue;
            };
            let others = places.map(|other| duplicate(&reference, first.origin(), other));
            let others: Vec<_> = others.collect();
            if !others.is_empty() {
                self.duplicates.insert(reference.clone(), others);
            }
            if held.told.as_ref() != Some(first) {
                held.told = Some(first.clone());
                new.push(Change::Upsert(first.clone()));
            }
        }
        let mut findings = self.findings();
        findings.extend(self.duplicates.values().flatten().cloned());
        findings.sort();
        ScanResult {
            changes: gone.into_iter().chain(new).collect(),
            findings,
        }
    }

    /// Everything that is wrong in single files.
    pub fn findings(&self) -> Vec<Finding> {
        self.by_name
            .values()
            .flat_map(|file| file.findings.iter().cloned())
            .collect()
    }
}

fn duplicate(reference: &ObjectRef, first: &Origin, second: &Object) -> Finding {
    let message = format!("the object stands in {first} already, and that one is used; remove one");
    Finding::at(
        Severity::Error,
        second.origin(),
        reference.to_string(),
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
            Change::Upsert(object) => format!("+{}", object.reference().name),
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
        let Change::Upsert(object) = &result.changes[0] else {
            panic!("an upsert")
        };
        assert_eq!(&*object.origin().file, "1.yaml");
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
