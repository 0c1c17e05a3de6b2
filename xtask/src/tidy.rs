//! Tidy: the conventions of this code base that no lint knows, as checks that fail.
//!
//! The policy stands in this file; the modules below only know how to look. Every finding names a file, a line and the
//! rule. Nothing is ever changed.

use std::{collections::BTreeSet, fmt, path::Path};

use anyhow::{Result, bail};
use clap::CommandFactory as _;

use crate::{Arguments, workspace};

mod commands;
mod hygiene;
mod layers;
mod source;

use hygiene::Exceptions;
use layers::{Layer, Manifest};
use source::Source;

/// A file that is longer tells more than one story.
const MAX_LINES: usize = 700;

/// The files that may hold unsafe code. A file that no longer does must leave the list.
const UNSAFE_FILES: [&str; 18] = [
    "lb-ebpf/src/action.rs",
    "lb-ebpf/src/carry.rs",
    "lb-ebpf/src/dial.rs",
    "lb-ebpf/src/main.rs",
    "lb-ebpf/src/maps.rs",
    "lb-ebpf/src/memory.rs",
    "lb-ebpf/src/packet.rs",
    "lb-ebpf/src/pieces.rs",
    "lb-ebpf/src/socket.rs",
    "lb-ebpf/src/stages.rs",
    "lb-ebpf/src/tables.rs",
    "lb-ebpf/src/trace.rs",
    "lb-user/src/apply/pod.rs",
    "lb-user/src/flows/memory.rs",
    "lb-user/src/sys.rs",
    "tests/src/ioctl.rs",
    "tests/src/netns.rs",
    "tests/src/rawbpf.rs",
];

/// Paths in code that a part of the tree must not name.
const LAYERS: [Layer; 3] = [
    Layer {
        within: &["lb-common/src"],
        except: &[],
        forbidden: &["aya", "aya_*", "tokio", "k8s_openapi"],
        why: "the datapath does not know its host",
    },
    Layer {
        within: &[
            "lb-user/src/compile",
            "lb-user/src/model",
            "lb-user/src/plan",
        ],
        except: &[],
        forbidden: &[
            "aya",
            "aya_*",
            "tokio",
            "std::fs",
            "net::Tcp*",
            "net::Udp*",
            "time::Instant",
            "time::SystemTime",
        ],
        why: "model, compile and plan are pure",
    },
    Layer {
        within: &["lb-user/src"],
        except: &["lb-user/src/source"],
        forbidden: &["k8s_openapi"],
        why: "no Kubernetes type leaves source/",
    },
];

/// Crates whose dependencies are a closed list; those of their tests are free.
const MANIFESTS: [Manifest; 2] = [
    Manifest {
        path: "lb-common/Cargo.toml",
        allowed: &["bytemuck"],
    },
    Manifest {
        path: "lb-ebpf/Cargo.toml",
        allowed: &["aya-ebpf", "aya-log-ebpf", "bytemuck", "lb-common"],
    },
];

/// One breach of a convention.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Counted from one; none if the finding is about the whole file.
    line: Option<usize>,
    rule: String,
}

impl Finding {
    fn at(path: &str, line: usize, rule: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line: Some(line),
            rule: rule.into(),
        }
    }

    fn of_file(path: &str, rule: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line: None,
            rule: rule.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule } = self;
        match line {
            Some(line) => write!(f, "{path}:{line}: {rule}"),
            None => write!(f, "{path}: {rule}"),
        }
    }
}

/// Fails if there is any finding, after printing all of them.
pub(crate) fn run() -> Result<()> {
    let findings = findings(workspace::root())?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    Ok(())
}

fn findings(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let exceptions = Exceptions {
        max_lines: MAX_LINES,
        unsafe_files: &UNSAFE_FILES,
    };
    let mut with_unsafe = BTreeSet::new();
    for file in workspace::files(root, "rs")? {
        let source = Source::new(file.path, file.text);
        findings.extend(hygiene::check(&source, &exceptions));
        findings.extend(layers::check(&source, &LAYERS));
        if source.tokens().iter().any(|token| token.text == "unsafe") {
            with_unsafe.insert(source.path().to_owned());
        }
    }
    findings.extend(hygiene::stale_exceptions(&exceptions, &with_unsafe));
    for file in workspace::files(root, "toml")? {
        findings.extend(layers::check_manifest(&file.path, &file.text, &MANIFESTS));
    }
    let command = Arguments::command();
    let verbs: Vec<_> = command
        .get_subcommands()
        .map(clap::Command::get_name)
        .collect();
    let documents = workspace::files(root, "md")?;
    if !documents.iter().any(|file| file.path == "README.md") {
        findings.push(Finding::of_file("README.md", "missing"));
    }
    for file in documents {
        findings.extend(commands::check(&file.path, &file.text, &verbs));
    }
    Ok(findings)
}
