//! Bytes of a file as text, without letting one bad byte hide the rest.

/// A text, and the lines of it that are not text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text {
    /// The text; what is none is replaced.
    pub(super) text: String,
    /// Lines that held something else, from 1, each once, with what is wrong.
    pub(super) bad: Vec<(usize, String)>,
}

/// Reads bytes as UTF-8.
pub(super) fn decode(bytes: Vec<u8>) -> Text {
    if let Some(name) = wide_encoding(&bytes) {
        let message = format!("the file is {name}; save it as UTF-8");
        // One document without content but its fault.
        return Text {
            text: "?".to_owned(),
            bad: vec![(1, message)],
        };
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => Text {
            text,
            bad: Vec::new(),
        },
        Err(error) => lossy(error.as_bytes()),
    };
    with_controls(text)
}

/// By its byte order mark, or by the zeros that ASCII has in it.
fn wide_encoding(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [0, a, 0, b, ..] | [a, 0, b, 0, ..] if is_ascii_text(*a) && is_ascii_text(*b) => {
            Some("UTF-16")
        }
        _ => None,
    }
}

fn is_ascii_text(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte.is_ascii_whitespace()
}

fn lossy(bytes: &[u8]) -> Text {
    let mut out = Text::default();
    let mut line = 1;
    for chunk in bytes.utf8_chunks() {
        out.text.push_str(chunk.valid());
        line += chunk.valid().matches('\n').count();
        if let Some(byte) = chunk.invalid().first() {
            out.text.push('\u{fffd}');
            note(&mut out.bad, line, || {
                format!("byte 0x{byte:02x} is not UTF-8 text")
            });
        }
    }
    out
}

/// Control characters, which neither YAML nor JSON allows.
fn with_controls(mut text: Text) -> Text {
    let is_wrong = |c: char| matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{fffe}' | '\u{ffff}');
    if !text.text.contains(is_wrong) {
        return text;
    }
    for (line, content) in (1..).zip(text.text.split('\n')) {
        if let Some(c) = content.chars().find(|c| is_wrong(*c)) {
            note(&mut text.bad, line, || {
                format!(
                    "the control character U+{:04X} is not allowed",
                    u32::from(c)
                )
            });
        }
    }
    text.bad.sort();
    text.bad.dedup_by_key(|(line, _)| *line);
    text
}

fn note(bad: &mut Vec<(usize, String)>, line: usize, message: impl FnOnce() -> String) {
    if bad.last().is_none_or(|(last, _)| *last != line) {
        bad.push((line, message()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_byte_is_told_and_hides_nothing() {
        let text = decode(b"a: 1\nb: \xff\xfe\nc: \0\nd: 1\n".to_vec());
        assert!(text.text.ends_with("d: 1\n"));
        let lines: Vec<_> = text.bad.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3]);
        assert!(text.bad[0].1.contains("0xff") && text.bad[1].1.contains("U+0000"));
    }

    #[test]
    fn wide_text_is_told_apart_from_binaries() {
        let utf16: Vec<u8> = "a: 1".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(decode(utf16.clone()).bad[0].1.contains("UTF-16"));
        let marked = [&[0xff, 0xfe][..], &utf16].concat();
        assert!(decode(marked).bad[0].1.contains("UTF-16"));
        assert!(
            decode(b"\x7fELF\x02\x01".to_vec()).bad[0]
                .1
                .contains("control")
        );
    }
}
