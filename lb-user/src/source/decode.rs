//! Nodes into the types of the API, with everything that does not fit written down.
//!
//! What is wrong is recorded and a harmless value put in its place, so that one reading finds every
//! fault of an object. What the API server takes is taken: nothing stands for a field's zero value,
//! `80.0` is a whole number, a quantity may be one.

use std::{cell::RefCell, fmt};

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor, value::StrDeserializer,
};

use super::{
    node::{Data, Entry, Map, Node},
    scalar,
};

/// Faults of one object that are told.
const MAX_FAULTS: usize = 100;

/// What is wrong at a place of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Path in the object, as `spec.ports[0].port`.
    pub(super) path: String,
    /// Line in the file, from 1.
    pub(super) line: usize,
    /// What is wrong.
    pub(super) what: What,
}

/// Kinds of faults.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The value is not what the field takes; the object cannot be used.
    Wrong(String),
    /// The value probably means something else to its writer.
    Odd(String),
    /// There is no such field; those that there are.
    Unknown(&'static [&'static str]),
}

/// The object as its type, and what does not fit. No object is only without faults that are wrong.
pub(super) fn decode<T: DeserializeOwned>(node: &Node) -> (Option<T>, Vec<Fault>) {
    let context = Context::default();
    let at = At {
        node,
        context: &context,
        role: Role::Plain,
    };
    let typed = T::deserialize(at).map_err(|error| context.caught(node, error));
    let faults = context.faults.into_inner();
    let is_wrong = faults
        .iter()
        .any(|fault| matches!(fault.what, What::Wrong(_)));
    (typed.ok().filter(|_| !is_wrong), faults)
}

#[derive(Default)]
struct Context {
    path: RefCell<String>,
    faults: RefCell<Vec<Fault>>,
}

impl Context {
    fn push(&self, line: usize, what: What) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < MAX_FAULTS {
            let path = self.path.borrow().clone();
            faults.push(Fault { path, line, what });
        }
    }

    fn wrong(&self, node: &Node, wanted: &str) {
        let message = format!(
            "{} where {wanted} must be{}",
            node.describe(),
            remedy(node, wanted)
        );
        self.push(node.line, What::Wrong(message));
    }

    /// Writes down an error of the type itself, once, where it came up.
    fn caught(&self, node: &Node, error: Error) -> Error {
        if let Some(message) = error.0 {
            self.push(node.line, What::Wrong(message));
        }
        Error(None)
    }

    /// Does something one step further in.
    fn within<R>(&self, step: impl FnOnce(&mut String), then: impl FnOnce() -> R) -> R {
        let len = self.path.borrow().len();
        step(&mut self.path.borrow_mut());
        let result = then();
        self.path.borrow_mut().truncate(len);
        result
    }

    fn key<R>(&self, key: &str, then: impl FnOnce() -> R) -> R {
        self.within(|path| join(path, key), then)
    }
}

/// Appends a key to a path; one with dots goes in brackets.
pub(super) fn join(path: &mut String, key: &str) {
    if key.contains(['.', '[', ']']) || key.is_empty() {
        path.push('[');
        path.push_str(key);
        path.push(']');
        return;
    }
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// What to write instead, where that can be told.
fn remedy(node: &Node, wanted: &str) -> String {
    match (&node.data, wanted) {
        (Data::Text(text), "a mapping") if super::advice::missing_space(text).is_some() => {
            "; a space is missing after the colon".to_owned()
        }
        (Data::Text(text), "a whole number") if text.parse::<i64>().is_ok() => {
            format!("; write {text} without quotes")
        }
        (Data::Text(text), "true or false") if matches!(&**text, "true" | "false") => {
            format!("; write {text} without quotes")
        }
        (Data::Int(_) | Data::Large(_) | Data::Float(_) | Data::Bool(_), "text") => {
            format!("; write \"{}\"", node.shown())
        }
        (Data::Map(_), "a list") => "; begin each item with `- `".to_owned(),
        _ => String::new(),
    }
}

/// An error of a type; `None` once it is written down.
#[derive(Debug)]
struct Error(Option<String>);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("told already"))
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Some(message.to_string()))
    }
}

/// A node to be read as whatever the type asks for.
#[derive(Clone, Copy)]
struct At<'a> {
    node: &'a Node,
    context: &'a Context,
    role: Role,
}

/// What a text is to the type that asks for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Plain,
    /// A quantity, which may be a number.
    Quantity,
    Time,
}

impl<'a> At<'a> {
    fn whole(self) -> Option<i128> {
        match self.node.data {
            Data::Int(value) => Some(value.into()),
            Data::Large(value) => Some(value.into()),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "only whole numbers of moderate size"
            )]
            Data::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => Some(value as i128),
            _ => None,
        }
    }

    /// A whole number of a range; zero where there is none.
    fn integer(self, min: i128, max: i128) -> i128 {
        if self.node.data == Data::Null {
            return 0;
        }
        let Some(value) = self.whole() else {
            self.context.wrong(self.node, "a whole number");
            return 0;
        };
        if !(min..=max).contains(&value) {
            let message = format!("{} is out of range; use {min} to {max}", self.node.shown());
            self.context.push(self.node.line, What::Wrong(message));
            return 0;
        }
        if let Some(raw) = self.node.raw.as_deref()
            && raw.starts_with('0')
        {
            let message = format!("`{raw}` means {value} in YAML; write {value}");
            self.context.push(self.node.line, What::Odd(message));
        }
        value
    }

    fn want_quantity(self, text: &str) {
        if self.role == Role::Quantity && !scalar::is_quantity(text.trim()) {
            let message = format!(
                "`{}` is no quantity; write a number and at most one of n, u, m, k, M, G, T, P, E, Ki, Mi, \
                 Gi, Ti, Pi and Ei, as 500m or 64Mi",
                self.node.shown()
            );
            self.context.push(self.node.line, What::Wrong(message));
        }
    }

    fn text(self) -> std::borrow::Cow<'a, str> {
        match &self.node.data {
            Data::Text(text) => (&**text).into(),
            Data::Int(_) | Data::Large(_) | Data::Float(_) if self.role == Role::Quantity => {
                self.node.scalar().unwrap_or_default()
            }
            Data::Null => "".into(),
            _ => {
                self.context.wrong(self.node, "text");
                "".into()
            }
        }
    }

    fn items(self) -> &'a [Node] {
        match &self.node.data {
            Data::List(items) => items,
            Data::Null => &[],
            _ => {
                self.context.wrong(self.node, "a list");
                &[]
            }
        }
    }

    /// The entries of a mapping. With `fields`, only these, and the others are unknown.
    fn entries(self, fields: Option<&'static [&'static str]>) -> Entries<'a> {
        static EMPTY: Map = Map {
            entries: Vec::new(),
            twins: Vec::new(),
        };
        let map = match &self.node.data {
            Data::Map(map) => map,
            Data::Null => &EMPTY,
            _ => {
                self.context.wrong(self.node, "a mapping");
                &EMPTY
            }
        };
        for twin in &map.twins {
            self.context.key(&twin.key, || {
                self.context.push(twin.second, What::Wrong(twin.told()));
            });
        }
        Entries {
            left: map.entries.iter(),
            value: None,
            fields,
            context: self.context,
        }
    }

    fn told<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| self.context.caught(self.node, error))
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty,)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let value = self.integer(<$type>::MIN.into(), <$type>::MAX.into());
            self.told(visitor.$visit(<$type>::try_from(value).unwrap_or_default()))
        })+
    };
}

impl<'de> Deserializer<'de> for At<'_> {
    type Error = Error;

    integers! {
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
    }

    /// For what may be several things: in these types a number or a name, or any value at all.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let result = match &self.node.data {
            Data::Null => visitor.visit_unit(),
            Data::Bool(value) => visitor.visit_bool(*value),
            Data::Int(value) => visitor.visit_i64(*value),
            Data::Large(value) => visitor.visit_u64(*value),
            Data::Float(value) => match self.whole().and_then(|value| i64::try_from(value).ok()) {
                Some(value) => visitor.visit_i64(value),
                None => visitor.visit_f64(*value),
            },
            Data::Text(text) => {
                self.want_quantity(text);
                visitor.visit_str(text)
            }
            Data::List(_) => visitor.visit_seq(Items {
                left: self.items().iter(),
                index: 0,
                context: self.context,
            }),
            Data::Map(_) => visitor.visit_map(self.entries(None)),
        };
        result.map_err(|error| {
            let message = error.0.map(|_| match self.whole() {
                Some(value) => format!("{value} is out of range"),
                None => format!("{} where a number or a name must be", self.node.describe()),
            });
            self.context.caught(self.node, Error(message))
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.node.data == Data::Null {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = match self.node.data {
            Data::Bool(value) => value,
            Data::Null => false,
            _ => {
                self.context.wrong(self.node, "true or false");
                false
            }
        };
        visitor.visit_bool(value)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.data {
            Data::Float(value) => visitor.visit_f64(value),
            _ => self.deserialize_i64(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let result = visitor.visit_str(&self.text());
        self.told(result.map_err(|error: Error| match error.0 {
            Some(_) if self.role == Role::Time => Error(Some(format!(
                "`{}` is no time; write it as 2006-01-02T15:04:05Z",
                self.node.shown()
            ))),
            _ => error,
        }))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items = Items {
            left: self.items().iter(),
            index: 0,
            context: self.context,
        };
        self.told(visitor.visit_seq(items))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.told(visitor.visit_map(self.entries(None)))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.told(visitor.visit_map(self.entries(Some(fields))))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let inner = Self {
            role: match name {
                "Quantity" => Role::Quantity,
                "Time" | "MicroTime" => Role::Time,
                _ => Role::Plain,
            },
            ..self
        };
        visitor.visit_newtype_struct(inner)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Items<'a> {
    left: std::slice::Iter<'a, Node>,
    index: usize,
    context: &'a Context,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        use std::fmt::Write as _;
        let Some(node) = self.left.next() else {
            return Ok(None);
        };
        let index = self.index;
        self.index += 1;
        let at = At {
            node,
            context: self.context,
            role: Role::Plain,
        };
        let step = |path: &mut String| {
            let _ = write!(path, "[{index}]");
        };
        self.context
            .within(step, || at.told(seed.deserialize(at)).map(Some))
    }
}

struct Entries<'a> {
    left: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
    fields: Option<&'static [&'static str]>,
    context: &'a Context,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        for entry in self.left.by_ref() {
            if let Some(fields) = self.fields
                && !fields.contains(&&*entry.key)
            {
                self.context.key(&entry.key, || {
                    self.context.push(entry.line, What::Unknown(fields));
                });
                continue;
            }
            self.value = Some(entry);
            let key: StrDeserializer<'_, Error> = (&*entry.key).into_deserializer();
            return seed.deserialize(key).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some(entry) = self.value.take() else {
            return Err(de::Error::custom("a value without a key"));
        };
        let at = At {
            node: &entry.value,
            context: self.context,
            role: Role::Plain,
        };
        self.context
            .key(&entry.key, || at.told(seed.deserialize(at)))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as core;

    use super::*;
    use crate::source::yaml;

    fn faults_of<T: DeserializeOwned>(text: &str) -> Vec<(String, usize, String)> {
        let node = yaml::load(text, 1, &mut Vec::new()).expect("YAML");
        let told = |fault: Fault| {
            let message = match fault.what {
                What::Wrong(message) | What::Odd(message) => message,
                What::Unknown(_) => "unknown".to_owned(),
            };
            (fault.path, fault.line, message)
        };
        decode::<T>(&node).1.into_iter().map(told).collect()
    }

    #[test]
    fn every_fault_of_an_object_is_found_at_once() {
        let text = "metadata:\n  name: 5\n  labels: {a: 1}\nspec:\n  ports:\n  - port: \"80\"\n    prt: 1\n  \
                    selector: [a]\n  publishNotReadyAddresses: \"true\"\n  type: yes\n";
        let expected = [
            (
                "metadata.name",
                2,
                "`5` is a number where text must be; write \"5\"",
            ),
            (
                "metadata.labels.a",
                3,
                "`1` is a number where text must be; write \"1\"",
            ),
            (
                "spec.ports[0].port",
                6,
                "`80` is text where a whole number must be; write 80 without quotes",
            ),
            ("spec.ports[0].prt", 7, "unknown"),
            ("spec.selector", 8, "a list where a mapping must be"),
            (
                "spec.publishNotReadyAddresses",
                9,
                "`true` is text where true or false must be; write true without quotes",
            ),
            (
                "spec.type",
                10,
                "`yes` is read as true where text must be; write \"yes\"",
            ),
        ]
        .map(|(path, line, message)| (path.to_owned(), line, message.to_owned()));
        assert_eq!(faults_of::<core::Service>(text), expected);
    }

    #[test]
    fn what_the_api_server_takes_is_taken() {
        let text = "spec:\n  ports:\n  - {port: 80.0, nodePort: null, targetPort: 8e1}\n  selector: {a: null}\n";
        assert_eq!(faults_of::<core::Service>(text), []);
        let text = "spec:\n  containers:\n  - resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 0.5}}\n";
        assert_eq!(faults_of::<core::Pod>(text), []);
    }

    #[test]
    fn values_that_are_out_of_range_or_no_such_thing_are_told() {
        let text = "metadata: {creationTimestamp: yesterday}\n";
        assert_eq!(
            faults_of::<core::Service>(text)[0].0,
            "metadata.creationTimestamp"
        );
        let text =
            "spec:\n  ports:\n  - port: 99999999999\n    targetPort: [1]\n    nodePort: 0777\n";
        let faults = faults_of::<core::Service>(text);
        assert!(
            faults[0].2.contains("99999999999 is out of range"),
            "{faults:?}"
        );
        assert!(faults[1].2.contains("`0777` means 511") || faults[1].0.ends_with("targetPort"));
    }
}
