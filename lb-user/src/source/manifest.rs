//! The text of one file, judged object by object.
//!
//! Every document, and every item of a list, ends as an object, as a rejection or as a notice; none
//! of them changes what becomes of another.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    convert::{self, Remarks},
    decode::{self, What},
    documents::{self, Broken, Document, Remark},
    encoding::{self, Text},
    fields,
    kinds::{self, Class},
    node::{Data, Node},
    spelling,
};
use crate::model::{
    finding::{Finding, Severity},
    object::{Kind, Located, Object, ObjectName, ObjectRef, Origin},
    written::Written,
};

/// Findings of one file that are kept; a file that is wrong throughout is wrong all the same.
const MAX_FINDINGS: usize = 10_000;

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Objects that may be used, in the order of the text. Names may repeat.
    pub objects: Vec<Object>,
    /// Objects that are there and were refused.
    pub rejected: BTreeSet<ObjectRef>,
    /// Whether a part of the text could not be read as any object, so that what it names is unknown.
    pub unknown: bool,
    /// What was found, sorted by place.
    pub findings: Vec<Finding>,
    /// Everything that was judged, in the order of the text.
    pub judged: Vec<Judged>,
}

/// One thing in a text that was judged: an object, or what should have been one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Where it begins.
    pub origin: Origin,
    /// Kind, namespace and name as far as they are known; else empty.
    pub label: String,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of something that was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The object may be used.
    Used,
    /// It is of a kind that is worked with, and refused.
    Refused,
    /// It is of a kind that is not worked with.
    Foreign,
    /// It is no object.
    Unreadable,
}

/// Judges a text that was read from `file`.
pub fn parse(file: &str, text: &str) -> Parsed {
    parse_bytes(file, text.as_bytes().to_vec())
}

/// As [`parse`], of bytes that need not be text.
pub fn parse_bytes(file: &str, bytes: Vec<u8>) -> Parsed {
    parse_text(file, &encoding::decode(bytes))
}

fn parse_text(name: &str, text: &Text) -> Parsed {
    let file: Arc<str> = name.into();
    let mut parsed = Parsed::default();
    for document in documents::split(text) {
        let origin = Origin {
            file: file.clone(),
            document: document.number,
            line: document.line,
        };
        let reader = Reader {
            document: &document,
            origin,
            parsed: &mut parsed,
        };
        reader.read();
    }
    if parsed.judged.is_empty() {
        let message = "there is no object in this file";
        let finding = Finding::about_file(Severity::Warning, name, message);
        parsed.findings.push(finding);
    }
    parsed.findings.sort();
    parsed.findings.dedup();
    if let Some(more) = parsed.findings.len().checked_sub(MAX_FINDINGS + 1) {
        parsed.findings.truncate(MAX_FINDINGS);
        let message = format!("{} findings more are not told", more + 1);
        let finding = Finding::about_file(Severity::Error, name, message);
        parsed.findings.push(finding);
    }
    parsed
}

/// Reads one document.
struct Reader<'a> {
    document: &'a Document<'a>,
    origin: Origin,
    parsed: &'a mut Parsed,
}

/// One object on its way.
struct Place<'v> {
    node: &'v Node,
    /// Kind, namespace and name as far as known, for messages.
    label: String,
    /// The kind that a typed list gives its items.
    kind: Option<Kind>,
    /// Its first line.
    line: usize,
}

impl Reader<'_> {
    fn read(mut self) {
        let first = self.parsed.judged.len();
        let mut remarks = Vec::new();
        match self.document.parse(&mut remarks) {
            Ok(node) => self.object(&Place {
                node: &node,
                label: label(&node, None),
                kind: None,
                line: self.document.line,
            }),
            Err(broken) => self.broken(broken),
        }
        self.remarks(first, remarks);
    }

    fn broken(&mut self, broken: Broken) {
        let label = broken
            .partial
            .map_or_else(String::new, |node| label(&node, None));
        self.parsed.unknown = true;
        self.judge(self.document.line, label.clone(), Outcome::Unreadable);
        self.find(Severity::Error, broken.line, label, "", broken.message);
    }

    /// Tells what was odd in the text, with the object that stands there.
    fn remarks(&mut self, first: usize, remarks: Vec<Remark>) {
        for Remark { line, message } in remarks {
            let judged = self.parsed.judged.get(first..).unwrap_or_default();
            let owner = judged.iter().rfind(|judged| judged.origin.line <= line);
            let label = owner.map_or_else(String::new, |judged| judged.label.clone());
            if owner.is_some_and(|judged| judged.outcome != Outcome::Foreign) {
                self.find(Severity::Warning, line, label, "", message);
            }
        }
    }

    fn object(&mut self, place: &Place<'_>) {
        if place.node.as_map().is_none() {
            let message = format!(
                "{} where an object must be; an object begins with `apiVersion:` and `kind:`",
                place.node.describe()
            );
            return self.nameless(place, "", &message);
        }
        let own = ["apiVersion", "kind"].map(|field| place.node.get(field));
        let is_absent = |node: Option<&Node>| node.is_none_or(|node| node.data == Data::Null);
        let listed = place.kind.filter(|_| own.into_iter().all(is_absent));
        let (version, kind) = match listed {
            Some(kind) => (kind.api_version(), kind.name()),
            None => match self.identity(place, own) {
                Some(identity) => identity,
                None => return,
            },
        };
        match kinds::classify(version, kind) {
            Class::List(item) => self.list(place, item),
            Class::Ours(kind) => self.known(kind, place),
            Class::Foreign => {
                self.judge(place.line, place.label.clone(), Outcome::Foreign);
                let message =
                    format!("objects of kind {kind} are not used; only what a service needs is");
                self.remark(place, Severity::Notice, "kind", message);
            }
            Class::Wrong { field, message } => self.nameless(place, field, &message),
        }
    }

    /// `apiVersion` and `kind` of an object that has both; else tells what is wrong.
    fn identity<'v>(
        &mut self,
        place: &Place<'v>,
        own: [Option<&'v Node>; 2],
    ) -> Option<(&'v str, &'v str)> {
        let texts = own.map(|node| node.and_then(Node::as_str).filter(|text| !text.is_empty()));
        if let [Some(version), Some(kind)] = texts {
            return Some((version, kind));
        }
        let [version, _] = own;
        for ((field, node), text) in ["apiVersion", "kind"].into_iter().zip(own).zip(texts) {
            if text.is_some() {
                continue;
            }
            let message = match node {
                Some(node) if !matches!(node.data, Data::Null | Data::Text(_)) => {
                    format!("{} where text must be", node.describe())
                }
                _ => self.missing(place, field, texts[1]),
            };
            self.nameless(place, field, &message);
            let mut ours = Kind::ALL.into_iter();
            match ours.find(|kind| Some(kind.name()) == texts[1]) {
                Some(kind) if field == "apiVersion" && version.is_none() => {
                    if let Err((field, message)) = reference(kind, place.node) {
                        self.remark(place, Severity::Error, field, message);
                    }
                    self.rest(kind, place, "metadata.name");
                }
                _ => {}
            }
            // One without the other tells no more.
            break;
        }
        None
    }

    fn missing(&self, place: &Place<'_>, field: &str, kind: Option<&str>) -> String {
        let known = ["apiVersion", "kind", "metadata", "spec", "status"];
        let entries = place.node.as_map().map_or(&[][..], |map| &map.entries);
        let keys = entries.iter().map(|entry| &*entry.key);
        let near = spelling::nearest(field, keys.filter(|key| !known.contains(key)));
        if let Some(near) = near {
            return format!("the field is missing (`{near}` is none; did you mean `{field}`?)");
        }
        let has_neither = ["apiVersion", "kind"]
            .iter()
            .all(|field| place.node.get(field).is_none());
        if has_neither {
            let dots = self.document.after_dots.map_or_else(String::new, |line| {
                format!("; the `...` in line {line} ends the document before it")
            });
            return format!(
                "the field is missing, and `kind` too: this is a part of an object and not a whole one{dots}"
            );
        }
        let ours = Kind::ALL.into_iter().find(|ours| Some(ours.name()) == kind);
        match ours {
            Some(kind) if field == "apiVersion" => {
                format!(
                    "the field is missing; write `apiVersion: {}`",
                    kind.api_version()
                )
            }
            _ => "the field is missing; without it nobody knows what the object is".to_owned(),
        }
    }

    fn list(&mut self, place: &Place<'_>, kind: Option<Kind>) {
        let version = place.node.get("apiVersion").and_then(Node::as_str);
        if let (None, Some(version)) = (kind, version.filter(|version| *version != "v1")) {
            let message = format!(
                "`{}` has no kind List; write `v1`. Its items are read all the same",
                super::node::shorten(version)
            );
            self.remark(place, Severity::Warning, "apiVersion", message);
        }
        if let Some(twin) = place.node.as_map().and_then(|map| map.twins.first()) {
            self.parsed.unknown = true;
            let label = place.label.clone();
            self.find(Severity::Error, twin.second, label, &twin.key, twin.told());
        }
        let items = match place.node.get("items").map(|items| &items.data) {
            Some(Data::List(items)) => items,
            // As `kubectl get` prints it where there is nothing.
            Some(Data::Null) => return,
            _ => {
                let message = "a list has `items`, which is a list of objects";
                return self.nameless(place, "items", message);
            }
        };
        for node in items {
            self.object(&Place {
                node,
                label: label(node, kind),
                kind,
                line: node.line,
            });
        }
    }

    fn known(&mut self, kind: Kind, place: &Place<'_>) {
        let reference = match reference(kind, place.node) {
            Ok(reference) => reference,
            Err((field, message)) => {
                self.parsed.unknown = true;
                self.judge(place.line, place.label.clone(), Outcome::Refused);
                self.remark(place, Severity::Error, field, message);
                return self.rest(kind, place, field);
            }
        };
        let mut remarks = Remarks::default();
        let object = self.typed_object(kind, place, &mut remarks);
        let object = object.filter(|_| !remarks.reject());
        let outcome = match object {
            Some(_) => Outcome::Used,
            None => Outcome::Refused,
        };
        self.judge(place.line, place.label.clone(), outcome);
        for remark in remarks.into_inner() {
            self.remark(place, remark.severity, &remark.field, remark.message);
        }
        match object {
            Some(object) => self.parsed.objects.push(object),
            None => drop(self.parsed.rejected.insert(reference)),
        }
    }

    /// What else is wrong with an object that is refused for one field: one round of mending shall do.
    fn rest(&mut self, kind: Kind, place: &Place<'_>, refused: &str) {
        let mut remarks = Remarks::default();
        self.typed_object(kind, place, &mut remarks);
        for remark in remarks.into_inner() {
            // What was refused, what holds it and what is in it have been told.
            let is_told = |a: &str, b: &str| a.starts_with(b);
            if !is_told(&remark.field, refused) && !is_told(refused, &remark.field) {
                self.remark(place, remark.severity, &remark.field, remark.message);
            }
        }
    }

    fn typed_object(
        &mut self,
        kind: Kind,
        place: &Place<'_>,
        remarks: &mut Remarks,
    ) -> Option<Object> {
        Some(match kind {
            Kind::Service => {
                let (raw, written) = self.typed::<core::Service>(kind, place)?;
                let service = convert::service::service(raw, remarks)?;
                Object::Service(self.located(place, service, written))
            }
            Kind::Endpoints => {
                let (raw, written) = self.typed::<core::Endpoints>(kind, place)?;
                let endpoints = convert::endpoint::endpoints(raw, remarks);
                Object::Endpoints(self.located(place, endpoints, written))
            }
            Kind::EndpointSlice => {
                let (raw, written) = self.typed::<discovery::EndpointSlice>(kind, place)?;
                let slice = convert::endpoint::slice(raw, remarks)?;
                Object::EndpointSlice(self.located(place, slice, written))
            }
            Kind::Pod => {
                let (raw, written) = self.typed::<core::Pod>(kind, place)?;
                Object::Pod(self.located(place, convert::pod::pod(raw, remarks), written))
            }
            Kind::Node => {
                let (raw, written) = self.typed::<core::Node>(kind, place)?;
                Object::Node(self.located(place, convert::node::node(raw, remarks), written))
            }
        })
    }

    fn located<T>(&self, place: &Place<'_>, object: T, written: Written) -> Arc<Located<T>> {
        Arc::new(Located {
            object,
            origin: self.origin_of(place.line),
            written,
        })
    }

    /// A line of the document.
    fn origin_of(&self, line: usize) -> Origin {
        Origin {
            line,
            ..self.origin.clone()
        }
    }

    /// The object as its kind's type. What does not fit, or is not known, is told.
    fn typed<T: DeserializeOwned + Serialize>(
        &mut self,
        kind: Kind,
        place: &Place<'_>,
    ) -> Option<(T, Written)> {
        let (typed, faults) = decode::decode::<T>(place.node);
        for fault in faults {
            let (severity, message) = match fault.what {
                What::Wrong(message) => (Severity::Error, message),
                What::Odd(message) => (Severity::Warning, message),
                What::Unknown(siblings) => {
                    let hint = fields::hint(kind, &fault.path, siblings);
                    let message = format!("there is no such field; it is not used{hint}");
                    (Severity::Warning, message)
                }
            };
            let label = place.label.clone();
            self.find(severity, fault.line, label, &fault.path, message);
        }
        let typed = typed?;
        let written = serde_json::to_value(&typed)
            .map_or_else(|_| Written::default(), |known| Written::new(&known));
        Some((typed, written))
    }

    /// An error about something that cannot be said to be any particular object.
    fn nameless(&mut self, place: &Place<'_>, field: &str, message: &str) {
        self.parsed.unknown = true;
        self.judge(place.line, place.label.clone(), Outcome::Unreadable);
        self.remark(place, Severity::Error, field, message.to_owned());
    }

    fn judge(&mut self, line: usize, label: String, outcome: Outcome) {
        let origin = self.origin_of(line);
        self.parsed.judged.push(Judged {
            origin,
            label,
            outcome,
        });
    }

    fn remark(&mut self, place: &Place<'_>, severity: Severity, field: &str, message: String) {
        let line = place.node.line_of(field).unwrap_or(place.line);
        self.find(severity, line, place.label.clone(), field, message);
    }

    fn find(
        &mut self,
        severity: Severity,
        line: usize,
        label: String,
        field: &str,
        message: String,
    ) {
        let origin = self.origin_of(line);
        let finding = Finding::at(severity, &origin, label, field, message);
        self.parsed.findings.push(finding);
    }
}

/// Kind, namespace and name as far as a value has them.
fn label(node: &Node, kind: Option<Kind>) -> String {
    let meta = node.get("metadata");
    let text = |node: Option<&Node>| node.and_then(Node::as_str).unwrap_or_default().to_owned();
    let own = text(node.get("kind"));
    let kind = match kind {
        Some(kind) if own.is_empty() => kind.name().to_owned(),
        _ => own,
    };
    let name = text(meta.and_then(|meta| meta.get("name")));
    let namespace = text(meta.and_then(|meta| meta.get("namespace")));
    let kind_of = |name: String| match &*kind {
        "" => name,
        kind => format!("{kind} {name}"),
    };
    match (name.is_empty(), namespace.is_empty()) {
        (true, _) => kind,
        (false, _) if kinds::is_cluster_wide(&kind) => kind_of(name),
        (false, true) => kind_of(format!("{}/{name}", convert::DEFAULT_NAMESPACE)),
        (false, false) => kind_of(format!("{namespace}/{name}")),
    }
}

/// The name that an object has, before anything else is known to be right; else the field that is
/// wrong, and why.
fn reference(kind: Kind, node: &Node) -> Result<ObjectRef, (&'static str, String)> {
    const NAME: &str = "metadata.name";
    let meta = node.get("metadata");
    if let Some(meta) = meta
        && meta.as_map().is_none()
        && meta.data != Data::Null
    {
        let message = format!("{} where a mapping must be", meta.describe());
        return Err(("metadata", message));
    }
    let name = match meta.and_then(|meta| meta.get("name")) {
        Some(node) if !matches!(node.data, Data::Text(_) | Data::Null) => {
            let remedy = match node.scalar() {
                Some(_) => format!("; write \"{}\"", node.shown()),
                None => String::new(),
            };
            return Err((
                NAME,
                format!("{} where text must be{remedy}", node.describe()),
            ));
        }
        name => name.and_then(Node::as_str).filter(|name| !name.is_empty()),
    };
    let Some(name) = name else {
        return Err((NAME, missing_name(node)));
    };
    let namespace = meta
        .and_then(|meta| meta.get("namespace"))
        .and_then(Node::as_str);
    let namespace = match (kind.is_namespaced(), namespace) {
        (false, _) => "",
        (true, None | Some("")) => convert::DEFAULT_NAMESPACE,
        (true, Some(namespace)) => namespace,
    };
    Ok(ObjectRef {
        kind,
        name: ObjectName::new(namespace, name),
    })
}

fn missing_name(node: &Node) -> String {
    if node.get("metadata").is_none()
        && let Some(map) = node.as_map()
        && let Some(near) = spelling::nearest("metadata", map.entries.iter().map(|e| &*e.key))
    {
        return format!("the field is missing (`{near}` is none; did you mean `metadata`?)");
    }
    let has = |node: Option<&Node>, field| node.is_some_and(|node| node.get(field).is_some());
    let hint = if has(node.get("metadata"), "generateName") {
        "; `generateName` needs an API server, so choose the name yourself"
    } else if has(Some(node), "name") {
        "; `name` stands beside `metadata` and belongs into it"
    } else {
        "; every object needs a name"
    };
    format!("the field is missing{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        parse("m.yaml", text)
            .findings
            .iter()
            .map(Finding::to_string)
            .collect()
    }

    const SERVICE: &str = "apiVersion: v1
kind: Service
metadata:
  name: hostname
spec:
  ports:
  - port: 80
    targetPort: 8080
  selector:
    app: hostname
";

    #[test]
    fn a_good_service_raises_nothing() {
        let parsed = parse("m.yaml", SERVICE);
        assert_eq!(parsed.findings, []);
        assert_eq!(parsed.objects.len(), 1);
        assert_eq!(parsed.objects[0].origin().to_string(), "m.yaml:1");
        assert_eq!(
            parsed.objects[0].reference().to_string(),
            "Service default/hostname"
        );
    }

    #[test]
    fn a_wrong_type_names_line_and_field() {
        let text = format!(
            "# one\n---\n{}",
            SERVICE.replace("port: 80\n", "port: eighty\n")
        );
        let parsed = parse("m.yaml", &text);
        assert_eq!(
            parsed.findings[0].to_string(),
            "m.yaml:9: error: Service default/hostname: spec.ports[0].port: \
             `eighty` is text where a whole number must be"
        );
        assert_eq!(parsed.rejected.len(), 1);
        assert!(!parsed.unknown);
    }

    #[test]
    fn an_unknown_field_is_a_warning_with_its_line() {
        let text = SERVICE.replace("spec:\n", "spec:\n  externTrafficPolicy: Local\n");
        let parsed = parse("m.yaml", &text);
        assert_eq!(parsed.objects.len(), 1);
        let finding = parsed.findings[0].to_string();
        assert!(
            finding.starts_with(
                "m.yaml:6: warning: Service default/hostname: spec.externTrafficPolicy: "
            ),
            "{finding}"
        );
    }

    #[test]
    fn what_is_no_object_is_told_so() {
        assert_eq!(
            messages("apiVersion: v1\nkind: Servie\nmetadata: {name: web}\n"),
            [
                "m.yaml:2: error: Servie default/web: kind: there is no kind `Servie` (did you mean `Service`?)"
            ]
        );
        assert!(messages("kind: Service\n")[0].contains("apiVersion: the field is missing"));
        assert!(messages("apiVersion: v1\n")[0].contains("kind: the field is missing"));
        assert!(
            messages("apiVersion: v1\nkind: Pod\n")[0]
                .contains("metadata.name: the field is missing")
        );
        assert!(messages("just text\n")[0].contains("`just text` is text where an object must be"));
        assert!(messages("a: [\n")[0].starts_with("m.yaml:"));
    }

    #[test]
    fn other_kinds_give_one_notice() {
        let text =
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a}\nspec: {x: y}\n";
        let parsed = parse("m.yaml", text);
        assert_eq!(parsed.findings.len(), 1);
        assert_eq!(parsed.findings[0].severity, Severity::Notice);
        assert!(!parsed.unknown);
    }

    #[test]
    fn lists_are_flattened_and_their_items_judged_alone() {
        let text = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}},
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bad"},
   "spec": {"ports": [{"port": "x"}]}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a"}}
]}"#;
        let parsed = parse("m.json", text);
        let names: Vec<_> = parsed
            .objects
            .iter()
            .map(|object| object.reference().to_string())
            .collect();
        assert_eq!(names, ["Node n1", "Pod a/p"]);
        assert_eq!(parsed.objects[1].origin().line, 5);
        assert_eq!(parsed.findings.len(), 1);
        let finding = &parsed.findings[0];
        assert_eq!(
            (finding.line, finding.field.as_str()),
            (4, "spec.ports[0].port")
        );
        assert_eq!(finding.object, "Service default/bad");
    }

    #[test]
    fn items_of_a_typed_list_need_no_kind() {
        let text = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: p}\n";
        assert_eq!(parse("m.yaml", text).objects.len(), 1);
    }
}
