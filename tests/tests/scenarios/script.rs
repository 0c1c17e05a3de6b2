//! A scenario as text: changes of a directory of manifests, and what must come of each.
//!
//! ```text
//! What the scenario shows, in one sentence.
//!
//! -- apply web.yaml --
//! (the file, new or replaced)
//!
//! -- delete old.yaml --
//!
//! -- tables --
//! (everything that stands in the tables)
//! ```
//!
//! Changes that stand together are seen at once, as one look at the directory. After them stands what is expected, each
//! block whole and exact:
//!
//! | block | content |
//! | --- | --- |
//! | `tables` | the dump of the tables; after every change |
//! | `findings` | what is wrong with the manifests; where the block is missing, nothing is |
//! | `services`, `endpoints` | what `fulcrum get` prints, without AGE |
//! | `steps` | the plan of this change: what it costs |
//!
//! What is written back differs from what was read in expected blocks only.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

/// A scenario.
#[derive(Debug)]
pub(crate) struct Script {
    /// Everything before the first block; its first line is the title.
    preamble: String,
    /// What happens, in order.
    pub(crate) scenes: Vec<Scene>,
}

/// Changes that are seen at once, and what comes of them.
#[derive(Debug, Default)]
pub(crate) struct Scene {
    /// At least one.
    pub(crate) changes: Vec<Change>,
    /// At least [`Topic::Tables`], and no topic twice.
    pub(crate) expected: Vec<Expected>,
}

/// A change of the directory.
#[derive(Debug)]
pub(crate) struct Change {
    /// What happens to the file.
    pub(crate) verb: Verb,
    /// The file's name.
    pub(crate) file: String,
    /// Its content, or for a file that goes away a remark.
    pub(crate) text: String,
}

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// It is made or replaced.
    Apply,
    /// It goes away.
    Delete,
}

/// What is expected about one topic.
#[derive(Debug)]
pub(crate) struct Expected {
    /// What it is about.
    pub(crate) topic: Topic,
    /// Line of the block's header, from 1.
    pub(crate) line: usize,
    /// Lines that end with a newline each.
    pub(crate) text: String,
}

/// What may be expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    /// The dump of the tables.
    Tables,
    /// What is wrong with the manifests.
    Findings,
    /// `get services`.
    Services,
    /// `get endpoints`.
    Endpoints,
    /// The steps of the plan.
    Steps,
}

impl Topic {
    const ALL: [Self; 5] = [
        Self::Tables,
        Self::Findings,
        Self::Services,
        Self::Endpoints,
        Self::Steps,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Tables => "tables",
            Self::Findings => "findings",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Steps => "steps",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Script {
    /// Reads a scenario.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut preamble = String::new();
        let mut scenes = vec![Scene::default()];
        let mut into = &mut preamble;
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(header) = header(line) {
                into = open(&mut scenes, header, number)
                    .with_context(|| format!("line {number}: `{line}`"))?;
            } else {
                into.push_str(line);
                into.push('\n');
            }
        }
        for scene in &mut scenes {
            scene.tidy()?;
        }
        let title = preamble.lines().next().unwrap_or_default();
        ensure!(!title.trim().is_empty(), "line 1: the title is missing");
        Ok(Self { preamble, scenes })
    }
}

/// The words of a line that begins a block.
fn header(line: &str) -> Option<&str> {
    line.strip_prefix("-- ")?.strip_suffix(" --")
}

/// Begins a block, and a scene where a change follows what was expected before. Gives the place of the block's lines.
fn open<'a>(scenes: &'a mut Vec<Scene>, header: &str, line: usize) -> Result<&'a mut String> {
    let topic = Topic::ALL.into_iter().find(|topic| topic.name() == header);
    let change = || {
        let (verb, file) = header.split_once(' ')?;
        let verb = match verb {
            "apply" => Verb::Apply,
            "delete" => Verb::Delete,
            _ => return None,
        };
        let (file, text) = (file.to_owned(), String::new());
        Some(Change { verb, file, text })
    };
    let is_over = scenes
        .last()
        .is_some_and(|scene| !scene.expected.is_empty());
    if topic.is_none() && is_over {
        scenes.push(Scene::default());
    }
    let scene = scenes.last_mut().context("no scene has begun")?;
    if let Some(topic) = topic {
        let is_new = scene.expected.iter().all(|other| other.topic != topic);
        ensure!(is_new, "`{topic}` stands twice after one change");
        ensure!(!scene.changes.is_empty(), "nothing has changed yet");
        let text = String::new();
        scene.expected.push(Expected { topic, line, text });
        let expected = scene.expected.last_mut();
        return expected
            .map(|expected| &mut expected.text)
            .context("no block has begun");
    }
    let Some(change) = change() else {
        let topics = Topic::ALL.map(Topic::name).join(", ");
        bail!("no such block; use apply FILE, delete FILE, {topics}");
    };
    let is_plain = !change.file.is_empty() && !change.file.contains(['/', ' ']);
    ensure!(is_plain, "`{}` is no name of a file", change.file);
    scene.changes.push(change);
    let change = scene.changes.last_mut();
    change
        .map(|change| &mut change.text)
        .context("no block has begun")
}

impl Scene {
    /// Leaves the blank lines between blocks out, and checks that the scene can fail.
    fn tidy(&mut self) -> Result<()> {
        let texts = self.changes.iter_mut().map(|change| &mut change.text);
        let texts = texts.chain(self.expected.iter_mut().map(|expected| &mut expected.text));
        for text in texts {
            text.truncate(text.trim_end().len());
            if !text.is_empty() {
                text.push('\n');
            }
        }
        let has_tables = self
            .expected
            .iter()
            .any(|expected| expected.topic == Topic::Tables);
        let file = self.changes.last().map_or("-", |change| &change.file);
        ensure!(
            has_tables,
            "no `tables` are expected after the change of {file}"
        );
        Ok(())
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.preamble.trim_end())?;
        f.write_str("\n")?;
        for Scene { changes, expected } in &self.scenes {
            for Change { verb, file, text } in changes {
                let verb = match verb {
                    Verb::Apply => "apply",
                    Verb::Delete => "delete",
                };
                write!(f, "\n-- {verb} {file} --\n{text}")?;
            }
            for Expected { topic, text, .. } in expected {
                write!(f, "\n-- {topic} --\n{text}")?;
            }
        }
        Ok(())
    }
}

const SAMPLE: &str = "\
Title.

Prose.

-- apply a.yaml --
kind: A
---
kind: B

-- delete b.yaml --

-- findings --

-- tables --
SVC

-- apply a.yaml --

-- tables --
";

#[test]
fn a_script_is_written_as_it_was_read() {
    let script = Script::parse(SAMPLE).unwrap();
    assert_eq!(script.to_string(), SAMPLE);
    let shape = |scene: &Scene| (scene.changes.len(), scene.expected.len());
    assert_eq!(
        script.scenes.iter().map(shape).collect::<Vec<_>>(),
        [(2, 2), (1, 1)]
    );
    assert_eq!(script.scenes[0].changes[0].text, "kind: A\n---\nkind: B\n");
    assert_eq!(script.scenes[0].expected[1].line, 14);
}

#[test]
fn a_script_that_could_not_fail_is_refused() {
    let cases = [
        ("Title.\n", "no `tables` are expected"),
        (
            "Title.\n-- apply a.yaml --\n-- findings --\n",
            "no `tables` are expected after the change of a.yaml",
        ),
        ("\n-- apply a.yaml --\n-- tables --\n", "title"),
        ("Title.\n-- tables --\n", "nothing has changed yet"),
        ("Title.\n-- apply a.yaml --\n-- table --\n", "no such block"),
        ("Title.\n-- apply ../a.yaml --\n-- tables --\n", "no name"),
        (
            "Title.\n-- apply a.yaml --\n-- tables --\n-- tables --\n",
            "twice",
        ),
    ];
    for (text, expected) in cases {
        let error = format!("{:#}", Script::parse(text).unwrap_err());
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}
