//! Which fields a type has, and where a field belongs that stands in the wrong place.
//!
//! Nothing is written down twice: a type that is read from a value that has everything tells every
//! field it knows.

use std::{cell::RefCell, fmt, sync::OnceLock};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::de::{
    self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
    value::StrDeserializer,
};

use super::{decode::join, spelling};
use crate::model::object::Kind;

/// ` (did you mean ...)` or ` (it belongs to ...)`, or nothing, for a field that `siblings` lack.
pub(super) fn hint(kind: Kind, path: &str, siblings: &[&str]) -> String {
    let key = path.rsplit(['.', '[']).next().unwrap_or(path);
    let key = key.trim_end_matches(']');
    if key.contains(|c: char| c.is_whitespace() && c != ' ') {
        return " (its name has a no-break space in it, or a tab)".to_owned();
    }
    let near = spelling::hint(key, siblings.iter().copied());
    if !near.is_empty() {
        return near;
    }
    match home(kind, key).as_deref() {
        Some("") => format!(" (`{key}` stands beside `metadata`, not in it)"),
        Some(home) => format!(" (it belongs to `{home}`)"),
        None => String::new(),
    }
}

/// The one place of a kind that has a field of this name, if none other is as near to the top.
pub(super) fn home(kind: Kind, key: &str) -> Option<String> {
    let depth = |path: &str| path.matches('.').count();
    let mut homes: Vec<(usize, &str)> = paths(kind)
        .iter()
        .filter_map(|path| {
            let (home, last) = path.rsplit_once('.').unwrap_or(("", path));
            (last.trim_end_matches("[]") == key).then(|| (depth(path), home))
        })
        .collect();
    homes.sort_unstable();
    homes.dedup();
    match homes[..] {
        [(_, home)] => Some(home.to_owned()),
        [(first, home), (second, _), ..] if first < second => Some(home.to_owned()),
        _ => None,
    }
}

/// Every field of a kind, as `spec.ports[].port`.
fn paths(kind: Kind) -> &'static [String] {
    static PATHS: [OnceLock<Vec<String>>; Kind::ALL.len()] =
        [const { OnceLock::new() }; Kind::ALL.len()];
    let index = Kind::ALL.iter().position(|other| *other == kind);
    PATHS[index.unwrap_or(0)].get_or_init(|| match kind {
        Kind::Service => probe::<core::Service>(),
        Kind::Endpoints => probe::<core::Endpoints>(),
        Kind::EndpointSlice => probe::<discovery::EndpointSlice>(),
        Kind::Pod => probe::<core::Pod>(),
        Kind::Node => probe::<core::Node>(),
    })
}

fn probe<T: de::DeserializeOwned>() -> Vec<String> {
    let found = RefCell::new(Vec::new());
    let probe = Probe {
        path: String::new(),
        found: &found,
    };
    // That the made-up value is none of the type's is of no interest.
    let _ = T::deserialize(probe);
    found.into_inner()
}

/// A value that has whatever it is asked for.
struct Probe<'f> {
    path: String,
    found: &'f RefCell<Vec<String>>,
}

#[derive(Debug)]
struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a value")
    }
}

impl std::error::Error for Failed {}

impl de::Error for Failed {
    fn custom<T: fmt::Display>(_message: T) -> Self {
        Self
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Failed;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_i64(0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_bool(false)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        // What is parsed on is a time.
        visitor.visit_str("2000-01-01T00:00:00Z")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let inner = Self {
            path: format!("{}[]", self.path),
            ..self
        };
        visitor.visit_seq(One(Some(inner)))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_map(All {
            left: fields.iter(),
            field: "",
            probe: self,
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_map(All {
            left: [].iter(),
            field: "",
            probe: self,
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_bytes(&[])
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char byte_buf unit unit_struct tuple
        tuple_struct enum identifier ignored_any
    }
}

struct One<'f>(Option<Probe<'f>>);

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Failed;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failed> {
        self.0
            .take()
            .map(|probe| seed.deserialize(probe))
            .transpose()
    }
}

struct All<'f> {
    left: std::slice::Iter<'static, &'static str>,
    field: &'static str,
    probe: Probe<'f>,
}

impl<'de> MapAccess<'de> for All<'_> {
    type Error = Failed;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failed> {
        // Version and kind are compared with the type's own, and not a matter of place.
        let is_root = self.probe.path.is_empty();
        let field = self
            .left
            .find(|field| !(is_root && matches!(**field, "apiVersion" | "kind")));
        let Some(field) = field else {
            return Ok(None);
        };
        self.field = field;
        let key: StrDeserializer<'_, Failed> = (*field).into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Failed> {
        let mut path = self.probe.path.clone();
        join(&mut path, self.field);
        self.probe.found.borrow_mut().push(path.clone());
        seed.deserialize(Probe {
            path,
            found: self.probe.found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_known() {
        let has = |kind, path: &str| paths(kind).iter().any(|other| other == path);
        assert!(has(Kind::Service, "spec.ports[].nodePort"));
        assert!(has(
            Kind::Service,
            "status.loadBalancer.ingress[].ports[].error"
        ));
        assert!(has(Kind::Pod, "spec.containers[].ports[].containerPort"));
        assert!(has(Kind::Pod, "status.podIPs[].ip"));
        assert!(has(Kind::EndpointSlice, "endpoints[].conditions.serving"));
        assert!(has(Kind::Endpoints, "subsets[].notReadyAddresses[].ip"));
        assert!(has(Kind::Node, "status.addresses[].address"));
    }

    #[test]
    fn a_misplaced_field_is_told_its_place() {
        let hint_of = |path: &str| hint(Kind::Service, path, &["metadata", "spec"]);
        assert_eq!(hint_of("nodePort"), " (it belongs to `spec.ports[]`)");
        assert_eq!(hint_of("metadata.selector"), " (it belongs to `spec`)");
        assert_eq!(hint_of("metdata"), " (did you mean `metadata`?)");
        assert_eq!(hint_of("frobnicate"), "");
    }
}
