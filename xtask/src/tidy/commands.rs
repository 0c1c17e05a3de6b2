//! The commands that documents tell the reader to type: each verb of `cargo xtask` in them must exist.

use super::Finding;

const COMMAND: &str = "cargo xtask ";

pub(super) fn check(path: &str, text: &str, verbs: &[&str]) -> Vec<Finding> {
    let lines = (1..).zip(text.lines());
    let used = lines.flat_map(|(line, text)| verbs_in(text).map(move |verb| (line, verb)));
    used.filter(|(_, verb)| !verbs.contains(verb))
        .map(|(line, verb)| Finding::at(path, line, format!("`{COMMAND}{verb}` does not exist")))
        .collect()
}

fn verbs_in(line: &str) -> impl Iterator<Item = &str> {
    line.split(COMMAND).skip(1).filter_map(|rest| {
        let end = rest.find(|char: char| !(char.is_ascii_lowercase() || char == '-'));
        let verb = &rest[..end.unwrap_or(rest.len())];
        (!verb.is_empty()).then_some(verb)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_verbs_that_do_not_exist_are_found() {
        let text = "Run `cargo xtask demo --keep`.\n`cargo xtask tset` or cargo xtask test, cargo xtask VERB.";
        let found = check("README.md", text, &["demo", "test"]);
        let expected = Finding::at("README.md", 2, "`cargo xtask tset` does not exist");
        assert_eq!(found, [expected]);
    }
}
