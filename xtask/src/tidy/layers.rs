//! The direction of dependencies: which paths the code of a part of the tree must not name, and which crates a crate
//! must not need.

use super::{
    Finding,
    source::{Source, Token},
};

/// A part of the tree and what it must not name.
pub(super) struct Layer {
    /// Files and directories, without extension.
    pub(super) within: &'static [&'static str],
    pub(super) except: &'static [&'static str],
    /// Consecutive segments of a path; a `*` at the end stands for the rest of a segment.
    pub(super) forbidden: &'static [&'static str],
    pub(super) why: &'static str,
}

/// A crate and all the crates it may depend on.
pub(super) struct Manifest {
    pub(super) path: &'static str,
    pub(super) allowed: &'static [&'static str],
}

pub(super) fn check(source: &Source, layers: &[Layer]) -> Vec<Finding> {
    let is_in = |dirs: &[&str]| dirs.iter().any(|dir| is_below(source.path(), dir));
    let mut findings = Vec::new();
    for layer in layers
        .iter()
        .filter(|layer| is_in(layer.within) && !is_in(layer.except))
    {
        for path in paths(source.tokens()) {
            if layer.forbidden.iter().any(|pattern| path.contains(pattern)) {
                let rule = format!("names {}, but {}", path.segments.join("::"), layer.why);
                findings.push(Finding::at(source.path(), path.line, rule));
            }
        }
    }
    findings
}

pub(super) fn check_manifest(path: &str, text: &str, manifests: &[Manifest]) -> Vec<Finding> {
    let Some(manifest) = manifests.iter().find(|manifest| manifest.path == path) else {
        return Vec::new();
    };
    dependencies(text)
        .filter(|(_, name)| !manifest.allowed.contains(name))
        .map(|(line, name)| Finding::at(path, line, format!("must not depend on {name}")))
        .collect()
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.starts_with(['/', '.']))
}

/// A path of identifiers in the code, as `std::fs::File`.
#[derive(Debug, PartialEq, Eq)]
struct CodePath {
    segments: Vec<String>,
    line: usize,
}

impl CodePath {
    fn contains(&self, pattern: &str) -> bool {
        let pattern: Vec<_> = pattern.split("::").collect();
        self.segments.windows(pattern.len()).any(|window| {
            window
                .iter()
                .zip(&pattern)
                .all(|(segment, pattern)| match pattern.strip_suffix('*') {
                    Some(prefix) => segment.starts_with(prefix),
                    None => segment == pattern,
                })
        })
    }
}

/// All paths of two and more segments, and everything that is imported.
fn paths(tokens: &[Token]) -> Vec<CodePath> {
    let mut paths = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let is_import = token.text == "use" && text(tokens, at + 1) != "<";
        if is_import {
            at = import(tokens, at + 1, &[], &mut paths);
        } else if is_identifier(&token.text) {
            let end = path_end(tokens, at);
            if end > at + 1 {
                paths.push(CodePath {
                    segments: segments(&tokens[at..end]),
                    line: token.line,
                });
            }
            at = end;
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads one tree of an import, as `a::{b, c::*}`; returns the position of what follows it.
fn import(tokens: &[Token], start: usize, prefix: &[String], paths: &mut Vec<CodePath>) -> usize {
    let mut at = start;
    if text(tokens, at) == "::" {
        at += 1;
    }
    let line = tokens.get(at).map_or(0, |token| token.line);
    let end = if is_identifier(text(tokens, at)) {
        path_end(tokens, at)
    } else {
        at
    };
    let mut segments = [prefix, &segments(&tokens[at..end])].concat();
    at = end;
    if text(tokens, at) == "::" {
        at += 1;
    }
    match text(tokens, at) {
        "{" => {
            at += 1;
            while !matches!(text(tokens, at), "}" | ";" | "") {
                at = import(tokens, at, &segments, paths);
                if text(tokens, at) == "," {
                    at += 1;
                }
            }
            return at + 1;
        }
        "*" => {
            segments.push("*".to_owned());
            at += 1;
        }
        "as" => at += 2,
        _ => {}
    }
    paths.push(CodePath { segments, line });
    // A token that cannot stand here must not hold up the reader.
    at.max(start + 1)
}

/// The position after the identifiers that `::` joins from here on.
fn path_end(tokens: &[Token], start: usize) -> usize {
    let mut end = start + 1;
    while text(tokens, end) == "::" && is_identifier(text(tokens, end + 1)) {
        end += 2;
    }
    end
}

fn segments(path: &[Token]) -> Vec<String> {
    path.iter()
        .step_by(2)
        .map(|token| token.text.clone())
        .collect()
}

/// The empty text stands for the end of the file.
fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

fn is_identifier(text: &str) -> bool {
    let starts_like_one = text.starts_with(|char: char| char.is_alphabetic() || char == '_');
    starts_like_one && text != "as"
}

/// Line and name of the dependencies in a manifest, those for tests left out.
fn dependencies(manifest: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_section = false;
    (1..).zip(manifest.lines()).filter_map(move |(line, text)| {
        if let Some(section) = text.strip_prefix('[') {
            let section = section.trim_end().trim_end_matches(']');
            is_section = section == "dependencies" || section.ends_with(".dependencies");
            return Some((line, section_dependency(section)?));
        }
        let name = text.split(['=', '.']).next()?.trim();
        (is_section && !name.is_empty() && !name.starts_with('#')).then_some((line, name))
    })
}

/// The dependency to which a section of a manifest belongs by itself.
fn section_dependency(section: &str) -> Option<&str> {
    let (before, name) = section.rsplit_once("dependencies.")?;
    (before.is_empty() || before.ends_with('.')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PURE: Layer = Layer {
        within: &["lb-user/src/plan"],
        except: &["lb-user/src/plan/clock"],
        forbidden: &["aya", "aya_*", "std::fs", "net::Tcp*", "time::Instant"],
        why: "it is pure",
    };

    fn findings(path: &str, text: &str) -> Vec<String> {
        let source = Source::new(path.to_owned(), text.to_owned());
        check(&source, &[PURE])
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn all_paths(text: &str) -> Vec<String> {
        let source = Source::new("a.rs".to_owned(), text.to_owned());
        paths(source.tokens())
            .iter()
            .map(|path| path.segments.join("::"))
            .collect()
    }

    #[test]
    fn nested_imports_are_read_as_full_paths() {
        let text = "use a::{b, c::{d as e, self}, f::*}; use ::g; pub use h::i as j;";
        let expected = ["a::b", "a::c::d", "a::c::self", "a::f::*", "g", "h::i"];
        assert_eq!(all_paths(text), expected);
    }

    #[test]
    fn paths_in_code_are_read_up_to_their_arguments() {
        let text = "fn f() -> impl T + use<'_> { a::b::<C>(x, d::e) as u8 }";
        assert_eq!(all_paths(text), ["a::b", "d::e"]);
    }

    #[test]
    fn broken_imports_end_with_the_file() {
        for text in [
            "use",
            "use a::{",
            "use a::{{{",
            "use a::{b,",
            "use {;",
            "use !",
        ] {
            all_paths(text);
        }
    }

    #[test]
    fn forbidden_paths_are_found_however_they_are_written() {
        for text in [
            "use std::{collections, fs};",
            "use aya::Ebpf;",
            "use aya_obj as obj;",
            "fn f() { std::fs::read(p) }",
            "use std::net; fn f(s: net::TcpStream) {}",
            "use std::time::{Duration, Instant};",
        ] {
            let found = findings("lb-user/src/plan/delta.rs", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].ends_with("but it is pure"), "{found:?}");
        }
    }

    #[test]
    fn what_only_resembles_a_forbidden_path_is_accepted() {
        let text = "use std::net::IpAddr; use std::time::Duration; // std::fs\nfn f(fs: u8) { crate::fs::f(\"aya::x\") }";
        assert!(findings("lb-user/src/plan.rs", text).is_empty());
    }

    #[test]
    fn a_layer_ends_where_its_directory_ends() {
        let text = "use std::fs;";
        assert_eq!(findings("lb-user/src/plan.rs", text).len(), 1);
        assert!(findings("lb-user/src/planner.rs", text).is_empty());
        assert!(findings("lb-user/src/plan/clock.rs", text).is_empty());
    }

    #[test]
    fn a_dependency_that_is_not_on_the_list_is_found_in_every_notation() {
        let manifest = [Manifest {
            path: "a/Cargo.toml",
            allowed: &["good"],
        }];
        let text = "[package]\nname = \"a\"\n[dependencies]\ngood = \"1\"\n# bad\nbad.workspace = true\n\
                    [target.'cfg(unix)'.dependencies]\nworse = \"1\"\n[dependencies.worst]\nversion = \"1\"\n\
                    [dev-dependencies]\nfree = \"1\"\n[dev-dependencies.free]\n";
        let found: Vec<_> = check_manifest("a/Cargo.toml", text, &manifest)
            .iter()
            .map(ToString::to_string)
            .collect();
        let expected = [
            "a/Cargo.toml:6: must not depend on bad",
            "a/Cargo.toml:8: must not depend on worse",
            "a/Cargo.toml:9: must not depend on worst",
        ];
        assert_eq!(found, expected);
        assert!(check_manifest("b/Cargo.toml", text, &manifest).is_empty());
    }
}
