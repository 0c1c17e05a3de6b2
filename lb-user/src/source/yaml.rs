//! YAML into nodes. This is the only module that knows the YAML library.
//!
//! The parser is asked for one event after the other, so that what costs too much is given up at once:
//! depth, the number of values, and what aliases stand for are bounded.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::{
    documents::{Broken, MAX_DEPTH, MAX_NODES, Remark},
    node::{Data, Entry, Map, Node, shorten},
    scalar,
};

/// What aliases may stand for in a document without much text, in values and bytes.
const ALIAS_BASE: usize = 16 << 10;
/// What aliases may stand for, per byte of text.
const ALIAS_FACTOR: usize = 4;
/// Remarks of one document that are kept.
const MAX_REMARKS: usize = 20;

/// The value of a text, whose first line is that of the file; remarks are pushed.
pub(super) fn load(
    text: &str,
    first_line: usize,
    remarks: &mut Vec<Remark>,
) -> Result<Node, Broken> {
    let mut loader = Loader {
        offset: first_line - 1,
        frames: Vec::new(),
        anchors: HashMap::new(),
        nodes_left: MAX_NODES,
        aliases_left: text.len() * ALIAS_FACTOR + ALIAS_BASE,
        root: None,
        remarks,
    };
    let mut parser = Parser::new_from_str(text);
    match loader.run(&mut parser) {
        Ok(()) => Ok(loader
            .root
            .unwrap_or_else(|| Node::new(first_line, Data::Null))),
        Err((line, message)) => Err(Broken {
            line: line.max(1) + loader.offset,
            message,
            partial: loader.collapse(),
        }),
    }
}

/// A line of the text, and what is wrong there.
type Stop = (usize, String);

struct Loader<'r> {
    /// Lines of the file before the text.
    offset: usize,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    nodes_left: usize,
    aliases_left: usize,
    root: Option<Node>,
    remarks: &'r mut Vec<Remark>,
}

/// A list or mapping that has not ended.
struct Frame {
    line: usize,
    anchor: usize,
    inner: Inner,
}

enum Inner {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        /// The key whose value comes next, and whether it asks for a merge.
        key: Option<(Box<str>, usize, bool)>,
        /// What `<<` brings in.
        merged: Vec<Node>,
    },
}

struct Anchored {
    node: Node,
    cost: usize,
    height: usize,
}

impl Loader<'_> {
    fn run(&mut self, parser: &mut Parser<'_, StrInput<'_>>) -> Result<(), Stop> {
        while let Some(next) = parser.next_event() {
            let (event, span) =
                next.map_err(|error| (error.marker().line(), told(error.info())))?;
            let at = span.start.line();
            self.event(event, at, &span)?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, at: usize, _span: &Span) -> Result<(), Stop> {
        let line = at + self.offset;
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(&text, style, tag.as_deref(), line);
                self.finish(node, anchor, at, style == ScalarStyle::Plain)
            }
            Event::SequenceStart(anchor, tag) => {
                self.container(tag.as_deref(), line);
                self.open(at, anchor, Inner::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.container(tag.as_deref(), line);
                let inner = Inner::Map {
                    entries: Vec::new(),
                    key: None,
                    merged: Vec::new(),
                };
                self.open(at, anchor, inner)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(at),
            Event::Alias(anchor) => {
                let node = self.alias(anchor, at)?;
                self.finish(node, 0, at, false)
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, at: usize, anchor: usize, inner: Inner) -> Result<(), Stop> {
        if let Some(Frame {
            inner: Inner::Map { key: None, .. },
            ..
        }) = self.frames.last()
        {
            let message = "a list or mapping stands where a key must be; a value that begins with `{` or `[` \
                           needs quotes";
            return Err((at, message.to_owned()));
        }
        if self.frames.len() >= MAX_DEPTH {
            return Err((at, too_deep()));
        }
        self.count(at)?;
        self.frames.push(Frame {
            line: at + self.offset,
            anchor,
            inner,
        });
        Ok(())
    }

    fn close(&mut self, at: usize) -> Result<(), Stop> {
        let Some(frame) = self.frames.pop() else {
            return Ok(());
        };
        let data = match frame.inner {
            Inner::List(items) => Data::List(items),
            Inner::Map {
                entries, merged, ..
            } => Data::Map(merge(Map::new(entries), merged)),
        };
        self.finish(Node::new(frame.line, data), frame.anchor, at, false)
    }

    /// A whole value: remembered by its anchor, then put where it belongs.
    fn finish(&mut self, node: Node, anchor: usize, at: usize, plain: bool) -> Result<(), Stop> {
        if anchor != 0 {
            let (cost, height) = node.cost_and_height();
            self.spend(cost, at)?;
            let anchored = Anchored {
                node: node.clone(),
                cost,
                height,
            };
            self.anchors.insert(anchor, anchored);
        }
        match &node.data {
            Data::List(_) | Data::Map(_) => {}
            _ => self.count(at)?,
        }
        match self.frames.last_mut().map(|frame| &mut frame.inner) {
            None => self.root = Some(node),
            Some(Inner::List(items)) => items.push(node),
            Some(Inner::Map {
                entries,
                key,
                merged,
            }) => match key.take() {
                Some((_, _, true)) if is_mergeable(&node) => merged.push(node),
                Some((_, _, true)) => {
                    let message = "`<<` merges mappings, and this is none";
                    return Err((at, message.to_owned()));
                }
                Some((key, line, false)) => entries.push(Entry {
                    key,
                    line,
                    value: node,
                }),
                None => {
                    let Some(text) = node.scalar() else {
                        return Err((at, "a key must be plain text".to_owned()));
                    };
                    let is_merge = plain && text == "<<";
                    *key = Some((text.into(), node.line, is_merge));
                    if let Some(raw) = &node.raw {
                        let message = format!(
                            "key `{raw}` is read as `{}`; put it in quotes",
                            text_of(&node)
                        );
                        self.remark(node.line, message);
                    }
                }
            },
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, at: usize) -> Result<Node, Stop> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err((
                at,
                "an alias stands inside of what it stands for".to_owned(),
            ));
        };
        let (cost, height) = (anchored.cost, anchored.height);
        if self.frames.len() + height > MAX_DEPTH {
            return Err((at, too_deep()));
        }
        self.spend(cost, at)?;
        // The lines of the copy are those of the original.
        Ok(self.anchors[&anchor].node.clone())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Node {
        let quoted = || Node::new(line, Data::Text(text.into()));
        match tag {
            None if style == ScalarStyle::Plain => scalar::resolve(text, line),
            None => quoted(),
            Some(tag) if tag.is_yaml_core_schema() => match &*tag.suffix {
                "str" => quoted(),
                "int" | "float" | "bool" | "null" => scalar::resolve(text, line),
                _ => {
                    self.tagged(tag, line);
                    quoted()
                }
            },
            // `!` alone says that it is text.
            Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => quoted(),
            Some(tag) => {
                self.tagged(tag, line);
                quoted()
            }
        }
    }

    fn container(&mut self, tag: Option<&Tag>, line: usize) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && matches!(&*tag.suffix, "map" | "seq"))
        {
            self.tagged(tag, line);
        }
    }

    fn tagged(&mut self, tag: &Tag, line: usize) {
        let tag = if tag.is_yaml_core_schema() {
            format!("!!{}", tag.suffix)
        } else {
            tag.to_string()
        };
        let tag = shorten(&tag);
        self.remark(
            line,
            format!("tag `{tag}` means nothing here and is ignored; remove it"),
        );
    }

    fn remark(&mut self, line: usize, message: String) {
        if self.remarks.len() < MAX_REMARKS {
            self.remarks.push(Remark { line, message });
        }
    }

    fn count(&mut self, at: usize) -> Result<(), Stop> {
        let left = self.nodes_left.checked_sub(1);
        self.nodes_left = left.ok_or_else(|| (at, too_many()))?;
        Ok(())
    }

    fn spend(&mut self, cost: usize, at: usize) -> Result<(), Stop> {
        let left = self.aliases_left.checked_sub(cost);
        self.aliases_left = left.ok_or_else(|| {
            let message =
                "aliases make this document many times as large as its text; write it out";
            (at, message.to_owned())
        })?;
        Ok(())
    }

    /// What there is of the value when the text cannot be read on.
    fn collapse(mut self) -> Option<Node> {
        let mut partial = None;
        while let Some(frame) = self.frames.pop() {
            let data = match frame.inner {
                Inner::List(mut items) => {
                    items.extend(partial.take());
                    Data::List(items)
                }
                Inner::Map {
                    mut entries, key, ..
                } => {
                    if let (Some((key, line, false)), Some(value)) = (key, partial.take()) {
                        entries.push(Entry { key, line, value });
                    }
                    Data::Map(Map::new(entries))
                }
            };
            partial = Some(Node::new(frame.line, data));
        }
        partial.or(self.root)
    }
}

/// A message of the library, in our words where its own say little.
fn told(message: &str) -> String {
    if let Some(c) = message.strip_prefix("unexpected character: `") {
        let c = c.trim_end_matches('\'');
        return format!("a value cannot begin with `{c}`; put it in quotes");
    }
    let ours = OUR_WORDS
        .iter()
        .find(|(theirs, _)| message.contains(theirs))
        .map(|(_, ours)| *ours);
    match ours {
        Some(ours) => ours.to_owned(),
        None if message == "recursion limit exceeded" => too_deep(),
        None => message.to_owned(),
    }
}

/// Parts of the library's messages, and what to say for them.
const OUR_WORDS: [(&str, &str); 16] = [
    (
        "simple key expect",
        "a line without a colon stands where a field must be",
    ),
    (
        "mapping values are not allowed",
        "a field stands where none can be; check the indentation, and quote a value that has a colon in it",
    ),
    (
        "did not find expected key",
        "this line is indented like none before it, or stands between fields and is none",
    ),
    (
        "did not find expected '-'",
        "this line is indented like a list's items and is none",
    ),
    (
        "invalid indentation in quoted scalar",
        "a quotation mark is not closed",
    ),
    (
        "quoted scalar, found unexpected end of stream",
        "a quotation mark is not closed",
    ),
    (
        "illegal placement of ':'",
        "a colon stands where none can be; is a `[` or `{` before it not closed?",
    ),
    (
        "did not find expected ',' or '}'",
        "a `,` or `}` is missing before this",
    ),
    ("expected ',' or ']'", "a `,` or `]` is missing before this"),
    ("misplaced bracket", "this `]` or `}` closes nothing"),
    (
        "found unknown anchor",
        "this alias stands for nothing: no `&` before it has its name; a value that begins with `*` needs quotes",
    ),
    (
        "invalid trailing content after",
        "text stands behind a closing quotation mark; in single quotes write an apostrophe twice, or use \
         double quotes",
    ),
    (
        "did not find expected hexadecimal number",
        "this `\\` begins no escape that YAML knows; write it twice, or use single quotes",
    ),
    (
        "did not find expected <document start>",
        "this line is indented less than the first one, or stands behind the end of the object",
    ),
    (
        "unknown escape character",
        "this `\\` begins no escape that YAML knows; write it twice, or use single quotes",
    ),
    (
        "did not find expected node content",
        "a value is missing here",
    ),
];

fn text_of(node: &Node) -> String {
    node.scalar().unwrap_or_default().into_owned()
}

/// A mapping, or a list of them.
fn is_mergeable(node: &Node) -> bool {
    match &node.data {
        Data::Map(_) => true,
        Data::List(items) => items.iter().all(|item| item.as_map().is_some()),
        _ => false,
    }
}

/// A mapping with the entries that merges bring and that it does not have itself.
fn merge(mut map: Map, merged: Vec<Node>) -> Map {
    if merged.is_empty() {
        return map;
    }
    let mut sources = Vec::new();
    for node in merged {
        match node.data {
            Data::List(items) => sources.extend(items),
            _ => sources.push(node),
        }
    }
    // Of equal keys the first is kept: the mapping's own, then the earlier source's.
    let mut entries = std::mem::take(&mut map.entries);
    for source in sources {
        if let Data::Map(source) = source.data {
            entries.extend(source.entries);
        }
    }
    Map {
        entries: Map::new(entries).entries,
        twins: map.twins,
    }
}

pub(super) fn too_deep() -> String {
    format!("values nest deeper than {MAX_DEPTH} levels, and no object does")
}

pub(super) fn too_many() -> String {
    format!("the document has more than {MAX_NODES} values; split it by `---`")
}
