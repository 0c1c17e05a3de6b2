//! What a document says, with the line of every key and value.
//!
//! The tree is what YAML and JSON have in common. It knows where each value stands, so that no
//! finding needs a second reading, and which keys stand twice, so that one object's slip is not its
//! whole document's.

use std::{borrow::Cow, fmt::Write as _};

/// Longest excerpt of a value in a message, in characters.
const MAX_SHOWN: usize = 60;

/// One value and its line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Line in the file, from 1.
    pub(super) line: usize,
    /// The value.
    pub(super) data: Data,
    /// How the text spells it, where that is not how it would be printed: `yes`, `0777`, `8_080`.
    pub(super) raw: Option<Box<str>>,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number beyond `i64`.
    Large(u64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(Box<str>),
    /// A list.
    List(Vec<Node>),
    /// A mapping.
    Map(Map),
}

/// A mapping in the order of the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Map {
    /// Keys and values; no key stands twice.
    pub(super) entries: Vec<Entry>,
    /// Keys that stood there again.
    pub(super) twins: Vec<Twin>,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: Box<str>,
    /// Line of the key, from 1.
    pub(super) line: usize,
    pub(super) value: Node,
}

/// A key that stands twice in one mapping; the first one's value is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Twin {
    pub(super) key: Box<str>,
    pub(super) first: usize,
    pub(super) second: usize,
}

impl Twin {
    /// What to say of it.
    pub(super) fn told(&self) -> String {
        let Self { key, first, second } = self;
        if first == second {
            return format!("key `{key}` stands twice in line {first}; remove one");
        }
        format!("key `{key}` stands here twice, in lines {first} and {second}; remove one")
    }
}

impl Node {
    /// Line of a field, or of the nearest there is that would hold it; `None` for the object itself.
    pub(super) fn line_of(&self, path: &str) -> Option<usize> {
        let (mut node, mut path, mut line) = (self, path, None);
        while !path.is_empty() {
            path = path.strip_prefix('.').unwrap_or(path);
            match &node.data {
                Data::Map(map) => {
                    // A key may have dots in it.
                    let is_next = |key: &str| {
                        let bare = path.strip_prefix('[').unwrap_or(path);
                        let rest = bare.strip_prefix(key)?;
                        let rest = rest.strip_prefix(']').unwrap_or(rest);
                        (rest.is_empty() || rest.starts_with(['.', '['])).then_some(rest)
                    };
                    let entries = map.entries.iter();
                    let found = entries
                        .filter_map(|entry| Some((entry, is_next(&entry.key)?)))
                        .min_by_key(|(_, rest)| rest.len());
                    let Some((entry, rest)) = found else {
                        return line;
                    };
                    (node, path, line) = (&entry.value, rest, Some(entry.line));
                }
                Data::List(items) => {
                    let index = path.strip_prefix('[').and_then(|path| path.split_once(']'));
                    let item = index.and_then(|(index, rest)| {
                        Some((items.get(index.parse::<usize>().ok()?)?, rest))
                    });
                    let Some((item, rest)) = item else {
                        return line;
                    };
                    (node, path, line) = (item, rest, Some(item.line));
                }
                _ => return line,
            }
        }
        line
    }

    /// A value that is spelled as it would be printed.
    pub(super) fn new(line: usize, data: Data) -> Self {
        Self {
            line,
            data,
            raw: None,
        }
    }

    /// The value of a key, if this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry of a key, if this is a mapping that has it.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        let entries = &self.as_map()?.entries;
        entries.iter().find(|entry| &*entry.key == key)
    }

    /// The mapping, if this is one.
    pub(super) fn as_map(&self) -> Option<&Map> {
        match &self.data {
            Data::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The text, if this is some.
    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Nodes and bytes of text of the whole value, and how deep it nests.
    pub(super) fn cost_and_height(&self) -> (usize, usize) {
        let inner = |nodes: &mut dyn Iterator<Item = (usize, &Self)>| {
            nodes.fold((1, 0), |(cost, height), (key, node)| {
                let (inner_cost, inner_height) = node.cost_and_height();
                (cost + key + inner_cost, height.max(inner_height + 1))
            })
        };
        match &self.data {
            Data::Text(text) => (1 + text.len(), 0),
            Data::List(items) => inner(&mut items.iter().map(|item| (0, item))),
            Data::Map(map) => inner(&mut map.entries.iter().map(|e| (e.key.len() + 1, &e.value))),
            _ => (1, 0),
        }
    }

    /// A scalar as text, as the key of a mapping would be; `None` for lists and mappings.
    pub(super) fn scalar(&self) -> Option<Cow<'_, str>> {
        Some(match &self.data {
            Data::Null => "null".into(),
            Data::Bool(value) => value.to_string().into(),
            Data::Int(value) => value.to_string().into(),
            Data::Large(value) => value.to_string().into(),
            Data::Float(value) => value.to_string().into(),
            Data::Text(text) => (&**text).into(),
            Data::List(_) | Data::Map(_) => return None,
        })
    }

    /// What the value is, for a message: ``text `80` ``, `a list`.
    pub(super) fn describe(&self) -> String {
        let what = match &self.data {
            Data::Null => return "nothing".to_owned(),
            Data::List(_) => return "a list".to_owned(),
            Data::Map(_) => return "a mapping".to_owned(),
            Data::Bool(value) => match self.raw {
                Some(_) if *value => "read as true",
                Some(_) => "read as false",
                None => "a boolean",
            },
            Data::Int(_) | Data::Large(_) | Data::Float(_) => "a number",
            Data::Text(_) => "text",
        };
        format!("`{}` is {what}", self.shown())
    }

    /// The value as the text spells it, shortened and on one line.
    pub(super) fn shown(&self) -> String {
        match (&self.raw, self.scalar()) {
            (Some(raw), _) => shorten(raw),
            (None, Some(text)) => shorten(&text),
            (None, None) => self.describe(),
        }
    }
}

impl Map {
    /// A mapping out of keys and values in order; of keys that stand twice the first is kept.
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_unstable_by(|a, b| (&entries[*a].key, a).cmp(&(&entries[*b].key, b)));
        let mut twins = Vec::new();
        let mut surplus = vec![false; entries.len()];
        let mut first: Option<usize> = None;
        for index in order {
            let entry = &entries[index];
            match first {
                Some(kept) if entries[kept].key == entry.key => {
                    surplus[index] = true;
                    twins.push(Twin {
                        key: entry.key.clone(),
                        first: entries[kept].line,
                        second: entry.line,
                    });
                }
                _ => first = Some(index),
            }
        }
        let mut surplus = surplus.into_iter();
        let mut entries = entries;
        entries.retain(|_| surplus.next() == Some(false));
        Self { entries, twins }
    }
}

/// A text of one line and bounded length.
pub(super) fn shorten(text: &str) -> String {
    let mut short = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == MAX_SHOWN {
            short.push('…');
            break;
        }
        if c.is_control() {
            let _ = write!(short, "{}", c.escape_default());
        } else {
            short.push(c);
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, line: usize) -> Entry {
        Entry {
            key: key.into(),
            line,
            value: Node::new(line, Data::Int(1)),
        }
    }

    #[test]
    fn of_keys_that_stand_twice_the_first_is_kept() {
        let map = Map::new(vec![entry("b", 1), entry("a", 2), entry("b", 3)]);
        let keys: Vec<_> = map.entries.iter().map(|e| (&*e.key, e.line)).collect();
        assert_eq!(keys, [("b", 1), ("a", 2)]);
        assert_eq!(map.twins.len(), 1);
        assert_eq!((map.twins[0].first, map.twins[0].second), (1, 3));
    }

    #[test]
    fn values_are_shown_on_one_line() {
        assert_eq!(shorten("a\nb"), "a\\nb");
        assert_eq!(shorten(&"x".repeat(100)).chars().count(), MAX_SHOWN + 1);
    }
}
