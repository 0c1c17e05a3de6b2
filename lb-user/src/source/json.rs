//! JSON into nodes.
//!
//! The JSON library tells no lines of values. It reads byte by byte, though, and never more than one
//! byte ahead: who hands out the bytes knows where it is.

use std::{
    cell::Cell,
    fmt,
    io::{self, Read},
};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{
    documents::{Broken, MAX_NODES},
    node::{Data, Entry, Map, Node},
    yaml::{too_deep, too_many},
};

/// The one value of a text, whose first line is that of the file.
pub(super) fn load(text: &str, first_line: usize) -> Result<Node, Broken> {
    let place = Place {
        line: Cell::new(first_line),
        last: Cell::new(0),
        nodes_left: Cell::new(MAX_NODES),
    };
    let reader = Counted {
        left: text.as_bytes(),
        place: &place,
    };
    let mut json = serde_json::Deserializer::from_reader(reader);
    let value = Seed(&place).deserialize(&mut json);
    value
        .and_then(|node| json.end().map(|()| node))
        .map_err(|error| {
            let text = error.to_string();
            let message = text.split(" at line ").next().unwrap_or(&text);
            let message = match message {
                _ if message.starts_with("recursion limit") => too_deep(),
                _ if message.starts_with("EOF while") => {
                    "the text ends before the object does; a `}`, `]` or quotation mark is missing"
                        .to_owned()
                }
                _ => message.to_owned(),
            };
            Broken {
                line: first_line + error.line().max(1) - 1,
                message,
                partial: None,
            }
        })
}

/// How far a text has been read.
struct Place {
    line: Cell<usize>,
    last: Cell<u8>,
    nodes_left: Cell<usize>,
}

impl Place {
    /// Line of what was read last. A number is known to end by the byte after it.
    fn line(&self) -> usize {
        self.line.get() - usize::from(self.last.get() == b'\n')
    }

    fn count<E: Error>(&self) -> Result<usize, E> {
        let left = self.nodes_left.get().checked_sub(1);
        self.nodes_left
            .set(left.ok_or_else(|| E::custom(too_many()))?);
        Ok(self.line())
    }
}

struct Counted<'a> {
    left: &'a [u8],
    place: &'a Place,
}

impl Read for Counted<'_> {
    /// One byte at a time: what has been handed out is what has been read.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (Some((byte, left)), Some(out)) = (self.left.split_first(), out.first_mut()) else {
            return Ok(0);
        };
        self.left = left;
        *out = *byte;
        self.place.last.set(*byte);
        self.place
            .line
            .set(self.place.line.get() + usize::from(*byte == b'\n'));
        Ok(1)
    }
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a Place);

impl Seed<'_> {
    fn node<E: Error>(self, data: Data) -> Result<Node, E> {
        Ok(Node::new(self.0.count()?, data))
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        self.node(Data::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        self.node(Data::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        self.node(Data::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        self.node(i64::try_from(value).map_or(Data::Large(value), Data::Int))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        self.node(Data::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        self.node(Data::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let line = self.0.count()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Node::new(line, Data::List(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let line = self.0.count()?;
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Box<str>>()? {
            let line = self.0.line();
            let value = map.next_value_seed(self)?;
            entries.push(Entry { key, line, value });
        }
        Ok(Node::new(line, Data::Map(Map::new(entries))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_line() {
        let text = "{\n \"a\": 1\n ,\"b\": [\n  true,\n  {\"c\": \"\\ud83d\\ude00\"}\n ]\n}\n";
        let node = load(text, 10).expect("JSON");
        assert_eq!((node.line, node.get("a").expect("a").line), (10, 11));
        let Data::List(items) = &node.get("b").expect("b").data else {
            panic!("a list")
        };
        let lines: Vec<_> = items.iter().map(|item| item.line).collect();
        assert_eq!(lines, [13, 14]);
        assert_eq!(items[1].get("c").and_then(Node::as_str), Some("\u{1f600}"));
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        let broken = load("{\n \"a\": 1,\n}\n", 1).expect_err("a trailing comma");
        assert_eq!((broken.line, &*broken.message), (3, "trailing comma"));
        let deep = format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000));
        assert!(load(&deep, 1).expect_err("deep").message.contains("deeper"));
    }
}
