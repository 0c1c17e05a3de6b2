//! The text of one file, judged object by object.
//!
//! Every document, and every item of a list, ends as an object, as a rejection or as a notice; none
//! of them changes what becomes of another.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    convert::{self, Remarks},
    documents::{self, Document},
    kinds::{self, Class},
};
use crate::model::{
    finding::{Finding, Severity},
    object::{Kind, Located, Object, ObjectName, ObjectRef, Origin},
    written::Written,
};

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Objects that may be used, in the order of the text. Names may repeat.
    pub objects: Vec<Located<Object>>,
    /// Objects that are there and were refused.
    pub rejected: BTreeSet<ObjectRef>,
    /// Whether a part of the text could not be read as any object, so that what it names is unknown.
    pub unknown: bool,
    /// What was found, sorted by place.
    pub findings: Vec<Finding>,
}

/// Judges a text that was read from `file`.
pub fn parse(file: &str, text: &str) -> Parsed {
    let file: Arc<str> = file.into();
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
    parsed.findings.sort();
    parsed
}

/// Reads one document.
struct Reader<'a> {
    document: &'a Document<'a>,
    origin: Origin,
    parsed: &'a mut Parsed,
}

/// One object on its way, and where in its document it stands.
struct Place<'v> {
    value: &'v Value,
    /// Path of the object in the document; empty where it is the document.
    path: String,
    /// Kind, namespace and name as far as known, for messages.
    label: String,
    /// The kind that a typed list gives its items.
    kind: Option<Kind>,
}

impl Place<'_> {
    /// The path in the document of a field of the object.
    fn path_of(&self, field: &str) -> String {
        match (self.path.is_empty(), field.is_empty()) {
            (true, _) => field.to_owned(),
            (false, true) => self.path.clone(),
            (false, false) => format!("{}.{field}", self.path),
        }
    }
}

impl Reader<'_> {
    fn read(mut self) {
        match self.document.parse() {
            Ok(Value::Null) => {}
            Ok(value) => {
                let label = label(&value, None);
                self.object(&Place {
                    value: &value,
                    path: String::new(),
                    label,
                    kind: None,
                });
            }
            Err(fault) => {
                self.parsed.unknown = true;
                let origin = Origin {
                    line: fault.line,
                    ..self.origin.clone()
                };
                let finding = Finding::at(
                    Severity::Error,
                    &origin,
                    String::new(),
                    &fault.field,
                    fault.message,
                );
                self.parsed.findings.push(finding);
            }
        }
    }

    fn object(&mut self, place: &Place<'_>) {
        let Some(fields) = place.value.as_object() else {
            let message = "this is no object; an object begins with `apiVersion:` and `kind:`";
            return self.nameless(place, "", message);
        };
        let text = |field: &str| {
            fields
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (kind, version) = match place.kind {
            Some(kind) => (kind.name(), kind.api_version()),
            None => (text("kind"), text("apiVersion")),
        };
        for (field, value) in [("kind", kind), ("apiVersion", version)] {
            if value.is_empty() {
                let message = "the field is missing; without it nobody knows what the object is";
                return self.nameless(place, field, message);
            }
        }
        match kinds::classify(version, kind) {
            Class::List(item) => self.list(place, item),
            Class::Ours(kind) => self.known(kind, place),
            Class::Foreign => self.remark(
                place,
                Severity::Notice,
                "kind",
                &format!("objects of kind {kind} are not used; only what a service needs is"),
            ),
            Class::Wrong { field, message } => self.nameless(place, field, &message),
        }
    }

    fn list(&mut self, place: &Place<'_>, kind: Option<Kind>) {
        let Some(items) = place.value.get("items").and_then(Value::as_array) else {
            return self.nameless(
                place,
                "items",
                "a list has `items`, which is a list of objects",
            );
        };
        for (index, value) in items.iter().enumerate() {
            let path = place.path_of(&format!("items[{index}]"));
            self.object(&Place {
                value,
                path,
                label: label(value, kind),
                kind,
            });
        }
    }

    fn known(&mut self, kind: Kind, place: &Place<'_>) {
        let Some(reference) = reference(kind, place.value) else {
            return self.nameless(
                place,
                "metadata.name",
                "the field is missing; every object needs a name",
            );
        };
        let mut remarks = Remarks::default();
        let mut written = Written::default();
        let object = match kind {
            Kind::Service => self
                .typed::<core::Service>(place, &mut remarks, &mut written)
                .and_then(|raw| convert::service::service(raw, &mut remarks).map(Object::Service)),
            Kind::Endpoints => self
                .typed::<core::Endpoints>(place, &mut remarks, &mut written)
                .map(|raw| Object::Endpoints(convert::endpoint::endpoints(raw, &mut remarks))),
            Kind::EndpointSlice => self
                .typed::<discovery::EndpointSlice>(place, &mut remarks, &mut written)
                .and_then(|raw| {
                    convert::endpoint::slice(raw, &mut remarks).map(Object::EndpointSlice)
                }),
            Kind::Pod => self
                .typed::<core::Pod>(place, &mut remarks, &mut written)
                .map(|raw| Object::Pod(convert::pod::pod(raw, &mut remarks))),
            Kind::Node => self
                .typed::<core::Node>(place, &mut remarks, &mut written)
                .map(|raw| Object::Node(convert::node::node(raw, &mut remarks))),
        };
        let object = object.filter(|_| !remarks.reject());
        for remark in remarks.into_inner() {
            self.remark(place, remark.severity, &remark.field, &remark.message);
        }
        match object {
            Some(object) => {
                let line = self.line_of(&place.path);
                let origin = Origin {
                    line,
                    ..self.origin.clone()
                };
                self.parsed.objects.push(Located {
                    object,
                    origin,
                    written,
                });
            }
            None => {
                self.parsed.rejected.insert(reference);
            }
        }
    }

    /// The object as its kind's type. What does not fit, or is not known, becomes a remark.
    fn typed<T: DeserializeOwned + Serialize>(
        &self,
        place: &Place<'_>,
        remarks: &mut Remarks,
        written: &mut Written,
    ) -> Option<T> {
        match serde_json::from_value::<T>(place.value.clone()) {
            Ok(typed) => {
                if let Ok(known) = serde_json::to_value(&typed) {
                    *written = Written::new(&known);
                    convert::unknown_fields(place.value, &known, "", remarks);
                }
                Some(typed)
            }
            Err(error) => {
                let fault = self.document.explain::<T>(&place.path);
                let (field, message) = fault.map_or_else(
                    || (String::new(), error.to_string()),
                    |f| (f.field, f.message),
                );
                let field = field.strip_prefix(&place.path).unwrap_or(&field);
                remarks.error(field.trim_start_matches('.'), message);
                None
            }
        }
    }

    /// An error about something that cannot be said to be any particular object.
    fn nameless(&mut self, place: &Place<'_>, field: &str, message: &str) {
        self.parsed.unknown = true;
        self.remark(place, Severity::Error, field, message);
    }

    fn remark(&mut self, place: &Place<'_>, severity: Severity, field: &str, message: &str) {
        let origin = Origin {
            line: self.line_of(&place.path_of(field)),
            ..self.origin.clone()
        };
        let finding = Finding::at(severity, &origin, place.label.clone(), field, message);
        self.parsed.findings.push(finding);
    }

    fn line_of(&self, path: &str) -> usize {
        if path.is_empty() {
            self.document.line
        } else {
            self.document.line_of(path)
        }
    }
}

/// Kind, namespace and name as far as a value has them.
fn label(value: &Value, kind: Option<Kind>) -> String {
    let meta = value.get("metadata");
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = kind.map_or_else(|| text(value.get("kind")), |kind| kind.name().to_owned());
    let name = text(meta.and_then(|meta| meta.get("name")));
    let namespace = text(meta.and_then(|meta| meta.get("namespace")));
    match (name.is_empty(), namespace.is_empty()) {
        (true, _) => kind,
        (false, true) if kind == Kind::Node.name() => format!("{kind} {name}"),
        (false, true) => format!("{kind} {}/{name}", convert::DEFAULT_NAMESPACE),
        (false, false) => format!("{kind} {namespace}/{name}"),
    }
}

/// The name that an object has, before anything else is known to be right.
fn reference(kind: Kind, value: &Value) -> Option<ObjectRef> {
    let meta = value.get("metadata")?;
    let name = meta.get("name")?.as_str().filter(|name| !name.is_empty())?;
    let namespace = meta.get("namespace").and_then(Value::as_str);
    let namespace = match (kind.is_namespaced(), namespace) {
        (false, _) => "",
        (true, None | Some("")) => convert::DEFAULT_NAMESPACE,
        (true, Some(namespace)) => namespace,
    };
    Some(ObjectRef {
        kind,
        name: ObjectName::new(namespace, name),
    })
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
        assert_eq!(parsed.objects[0].origin.to_string(), "m.yaml:1");
        assert_eq!(
            parsed.objects[0].object.reference().to_string(),
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
             invalid type: string \"eighty\", expected i32"
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
        assert!(messages("just text\n")[0].contains("this is no object"));
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
            .map(|o| o.object.reference().to_string())
            .collect();
        assert_eq!(names, ["Node n1", "Pod a/p"]);
        assert_eq!(parsed.objects[1].origin.line, 5);
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
