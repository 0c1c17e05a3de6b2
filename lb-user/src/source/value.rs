//! Values out of untrusted text, and the way back from a field to its line.
//!
//! [`Bounded`] builds a value and gives up when aliases blow it up: `serde_yaml` counts how often
//! aliases are followed, not how much each stands for, so that its own limit leaves a quadratic bomb.
//! [`locate`] and [`explain`] walk the text a second time, since a value no longer knows its lines.

use std::{cell::Cell, fmt, marker::PhantomData};

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess,
    Visitor,
};
use serde_json::{Map, Number, Value};

/// Text by which the error that marks a place is told from all others.
const MARK: &str = "this is the place";

/// Builds a [`Value`] that costs at most what is left in the cell; nodes and bytes of text count.
#[derive(Clone, Copy)]
pub(super) struct Bounded<'a>(pub(super) &'a Cell<usize>);

impl Bounded<'_> {
    fn charge<E: serde::de::Error>(self, cost: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(cost + 1).ok_or_else(|| {
            E::custom("aliases make this document many times as large as its text; write it out")
        })?;
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.charge(0).map(|()| Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.charge(0).map(|()| value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.charge(0).map(|()| value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.charge(0).map(|()| value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.charge(0)?;
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.charge(value.len()).map(|()| value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.charge(0)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.charge(0)?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(NewKey { seen: &map })? {
            self.charge(key.len())?;
            let value = entries.next_value_seed(self)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A key of a mapping that it does not have yet. Scalars that are no strings are taken as text, as
/// the conversion from YAML to JSON does.
struct NewKey<'a> {
    seen: &'a Map<String, Value>,
}

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        if self.seen.contains_key(key) {
            return Err(E::custom(format!(
                "key `{key}` stands here twice; remove one"
            )));
        }
        Ok(key.to_owned())
    }
}

/// One step from a value into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// Steps of a path as findings spell it: `spec.ports[0].port`.
pub(super) fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, indices) = part.split_once('[').unwrap_or((part, ""));
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        }
        let indices = indices
            .split(['[', ']'])
            .filter_map(|index| index.parse().ok());
        steps.extend(indices.map(Step::Index));
    }
    steps
}

/// Line of the text at which the value of a path stands, from 1; `None` where there is none.
pub(super) fn locate(text: &str, path: &[Step]) -> Option<usize> {
    let seed = At::<Nothing> {
        path,
        leaf: PhantomData,
        mark: true,
    };
    let error = seed
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .err()?;
    error
        .to_string()
        .contains(MARK)
        .then(|| error.location().map(|place| place.line()))
        .flatten()
}

/// Why the value of a path is no `T`, with path and line as `serde_yaml` gives them.
pub(super) fn explain<T: DeserializeOwned>(text: &str, path: &[Step]) -> Option<serde_yaml::Error> {
    let seed = At::<T> {
        path,
        leaf: PhantomData,
        mark: false,
    };
    seed.deserialize(serde_yaml::Deserializer::from_str(text))
        .err()
}

/// Goes to the end of a path and reads a `T` there; with `mark`, fails there instead.
struct At<'p, T> {
    path: &'p [Step],
    leaf: PhantomData<T>,
    mark: bool,
}

/// The leaf of a walk that only marks.
#[derive(serde::Deserialize)]
struct Nothing;

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for At<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.path {
            [] if self.mark => deserializer.deserialize_any(Refuse).map(drop),
            [] => T::deserialize(deserializer).map(drop),
            [..] => deserializer.deserialize_any(self),
        }
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for At<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping or a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.path.split_first() else {
            return Err(A::Error::custom("a mapping"));
        };
        let mark = self.mark && rest.is_empty();
        while let Some(found) = entries.next_key_seed(WantedKey { wanted, mark })? {
            if found {
                entries.next_value_seed(Self { path: rest, ..self })?;
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(());
            }
            entries.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), rest)) = self.path.split_first() else {
            return Err(A::Error::custom("a list"));
        };
        for _ in 0..*wanted {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        items.next_element_seed(Self { path: rest, ..self })?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// Whether a key is the wanted one; with `mark`, an error at the wanted one.
struct WantedKey<'p> {
    wanted: &'p str,
    mark: bool,
}

impl<'de> DeserializeSeed<'de> for WantedKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for WantedKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        if key == self.wanted && self.mark {
            return Err(E::custom(MARK));
        }
        Ok(key == self.wanted)
    }
}

/// Takes no value at all, so that the error carries the place of the one that was there.
struct Refuse;

impl Visitor<'_> for Refuse {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "kind: Service\nspec:\n  ports:\n  - port: 80\n  - name: b\n    port: 81\n";

    fn bounded(text: &str, budget: usize) -> Result<Value, serde_yaml::Error> {
        Bounded(&Cell::new(budget)).deserialize(serde_yaml::Deserializer::from_str(text))
    }

    #[test]
    fn a_path_leads_back_to_its_line() {
        assert_eq!(locate(TEXT, &steps("spec.ports[1].port")), Some(6));
        assert_eq!(locate(TEXT, &steps("spec.ports[1]")), Some(5));
        assert_eq!(locate(TEXT, &steps("spec")), Some(2));
        assert_eq!(locate(TEXT, &steps("spec.selector")), None);
        assert_eq!(locate(TEXT, &steps("spec.ports[7].port")), None);
        assert_eq!(locate("{\"a\":\n {\"b\": 1}}", &steps("a.b")), Some(2));
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_at_its_line() {
        let error = bounded("a: 1\nb:\n  c: 1\n  c: 2\n", 100).expect_err("`c` stands twice");
        assert!(
            error.to_string().contains("`c` stands here twice"),
            "{error}"
        );
        assert_eq!(error.location().expect("a place").line(), 4);
    }

    #[test]
    fn the_budget_counts_what_aliases_stand_for() {
        let mut text = String::from("a: &a [");
        text.push_str(&"x, ".repeat(200));
        text.push_str("]\nb: [");
        text.push_str(&"*a, ".repeat(200));
        text.push(']');
        let error = bounded(&text, text.len() * 4).expect_err("40,000 nodes out of 1,400 bytes");
        assert!(error.to_string().contains("aliases"), "{error}");
        assert!(bounded(&text, 200_000).is_ok());
    }

    #[test]
    fn scalars_as_keys_become_text() {
        let value = bounded("1: a\ntrue: b\n", 100).expect("scalar keys");
        assert_eq!(value, serde_json::json!({"1": "a", "true": "b"}));
    }
}
