//! Standard input as a source: read once, to its end.

use std::io::{self, Read};

use super::{Change, ScanResult, dir, files::Files, manifest};

/// The source's name, and the file's in findings.
pub const NAME: &str = "-";

/// Everything on standard input, as changes that end with [`Change::Synced`].
pub fn read() -> io::Result<ScanResult> {
    read_from(io::stdin().lock())
}

/// As [`read`], from any reader.
pub fn read_from(input: impl Read) -> io::Result<ScanResult> {
    let bytes = dir::read_all(input)?;
    let mut files = Files::default();
    files.insert(NAME, manifest::parse_bytes(NAME, bytes));
    let mut result = files.merge();
    result.changes.push(Change::Synced(NAME.to_owned()));
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_told_whole_and_then_synced() {
        let text = "apiVersion: v1\nkind: Node\nmetadata: {name: node}\n---\nkind: x\n";
        let result = read_from(text.as_bytes()).expect("readable");
        assert_eq!(result.changes.len(), 2);
        assert_eq!(result.changes[1], Change::Synced("-".to_owned()));
        assert_eq!(result.findings.len(), 1);
        assert_eq!(result.findings[0].file, "-");
    }

    #[test]
    fn input_that_is_no_text_is_a_finding() {
        let result = read_from(&[0xff, 0xfe][..]).expect("readable");
        assert!(result.findings[0].message.contains("UTF-16"), "{result:?}");
    }
}
