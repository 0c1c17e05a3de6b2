//! The forms of names that the API knows, and what to say of a text that has another.

use super::Remarks;

/// Longest DNS label (RFC 1123).
const MAX_LABEL: usize = 63;
/// Longest DNS subdomain (RFC 1123).
const MAX_SUBDOMAIN: usize = 253;
/// Longest name of a container port (RFC 6335 §5.1).
const MAX_PORT_NAME: usize = 15;
/// Longest value of a label, and longest name part of a qualified name.
const MAX_LABEL_VALUE: usize = 63;

/// Whether a text is a DNS label (RFC 1123 §2.1).
pub(super) fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_part(text)
}

/// Whether a text is a DNS subdomain: labels and dots, each label of any length.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_part)
}

/// Whether a text is a host name of two labels at least; it may end with a dot.
pub(super) fn is_full_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= MAX_SUBDOMAIN && name.contains('.') && name.split('.').all(is_label)
}

/// Whether a text may be a label's value; an empty one may.
pub(super) fn is_label_value(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.is_empty()
        || text.len() <= MAX_LABEL_VALUE
            && text.starts_with(ends)
            && text.ends_with(ends)
            && text.chars().all(|c| ends(c) || "-_.".contains(c))
}

/// Whether a text is a qualified name, as keys of labels are: `NAME` or `SUBDOMAIN/NAME`.
pub(super) fn is_qualified(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Whether a text may name a container port (RFC 6335 §5.1).
fn is_port_name(text: &str) -> bool {
    text.len() <= MAX_PORT_NAME
        && is_part(text)
        && !text.contains("--")
        && text.contains(|c: char| c.is_ascii_lowercase())
}

/// A DNS label of any length.
fn is_part(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.chars().all(|c| alphanumeric(c) || c == '-')
}

/// What to say of a character that may look like one of those that are right.
fn stranger(text: &str) -> String {
    let found = text.chars().find(|c| c.is_alphabetic() && !c.is_ascii());
    found
        .map(|c| format!("; `{c}` in it is U+{:04X}", u32::from(c)))
        .unwrap_or_default()
}

/// Wants a DNS label; `what` says of what it is the name.
pub(super) fn want_label(text: &str, what: &str, field: &str, remarks: &mut Remarks) {
    if !is_label(text) {
        let message = format!(
            "`{text}` is no name for {what}; use at most {MAX_LABEL} lower-case letters, digits and `-`, \
             and begin and end with a letter or digit"
        );
        remarks.error(field, message + &stranger(text));
    }
}

/// Wants a DNS subdomain; `what` says of what it is the name.
pub(super) fn want_subdomain(text: &str, what: &str, field: &str, remarks: &mut Remarks) {
    if !is_subdomain(text) {
        let message = format!(
            "`{text}` is no name for {what}; use at most {MAX_SUBDOMAIN} lower-case letters, digits, `-` \
             and `.`, and begin and end each part with a letter or digit"
        );
        remarks.error(field, message + &stranger(text));
    }
}

/// Wants a qualified name; `what` says what it is.
pub(super) fn want_qualified(text: &str, what: &str, field: &str, remarks: &mut Remarks) {
    if !is_qualified(text) {
        let message = format!(
            "`{text}` is no {what}; use at most {MAX_LABEL_VALUE} letters, digits, `-`, `_` and `.`, and \
             begin and end with a letter or digit; a DNS name and `/` may stand before"
        );
        remarks.error(field, message + &stranger(text));
    }
}

/// Wants a value that a label can have.
pub(super) fn want_label_value(text: &str, field: &str, remarks: &mut Remarks) {
    if !is_label_value(text) {
        let message = format!(
            "`{text}` is no value for a label; use at most {MAX_LABEL_VALUE} letters, digits, `-`, `_` and \
             `.`, and begin and end with a letter or digit"
        );
        remarks.error(field, message + &stranger(text));
    }
}

/// Wants the name of a container port.
pub(super) fn want_port_name(text: &str, field: &str, remarks: &mut Remarks) {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let message = format!("`{text}` is text; write the number without quotes");
        remarks.error(field, message);
    } else if !is_port_name(text) {
        let message = format!(
            "`{text}` is no name for a container port; use at most {MAX_PORT_NAME} lower-case letters, \
             digits and single `-`, one letter at least"
        );
        remarks.error(field, message + &stranger(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains_are_those_of_rfc_1123() {
        assert!(is_label("web-1") && is_label("1") && is_label(&"a".repeat(63)));
        for wrong in ["", "-web", "web-", "Web", "we b", "web.a", &"a".repeat(64)] {
            assert!(!is_label(wrong), "{wrong}");
        }
        assert!(is_subdomain("a.b-c.1") && is_subdomain(&"a".repeat(253)));
        for wrong in ["", "a..b", ".a", "a.", "A.b", &"a".repeat(254)] {
            assert!(!is_subdomain(wrong), "{wrong}");
        }
        assert!(is_full_host_name("a.b") && is_full_host_name("a.b."));
        for wrong in ["a", "a.", "", ".", "a.b..", "A.b"] {
            assert!(!is_full_host_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn keys_and_values_of_labels_have_their_forms() {
        for right in ["a", "A_b.c-1", "example.com/a", "1/a", &"a".repeat(63)] {
            assert!(is_qualified(right), "{right}");
        }
        for wrong in [
            "",
            "/a",
            "a/",
            "a/b/c",
            "-a",
            "a_",
            "Example.com/a",
            "a b",
            &"a".repeat(64),
        ] {
            assert!(!is_qualified(wrong), "{wrong}");
        }
        assert!(is_label_value("") && is_label_value("a.B_c-1"));
        for wrong in ["-", "a/b", "ä", &"a".repeat(64)] {
            assert!(!is_label_value(wrong), "{wrong}");
        }
    }

    #[test]
    fn container_ports_have_short_names_with_a_letter() {
        for right in ["http", "a", "9p", "abcdefghijklmno"] {
            assert!(is_port_name(right), "{right}");
        }
        for wrong in [
            "",
            "80",
            "a--b",
            "-a",
            "a-",
            "HTTP",
            "a_b",
            "abcdefghijklmnop",
        ] {
            assert!(!is_port_name(wrong), "{wrong}");
        }
    }
}
