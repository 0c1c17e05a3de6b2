//! What a plain scalar means: the rules of kubectl's YAML library.
//!
//! That library reads YAML 1.1: `yes` and `off` are booleans, `0777` is octal. A manifest must mean
//! here what it means there.

use super::node::{Data, Node};

/// The value of an unquoted scalar.
pub(super) fn resolve(text: &str, line: usize) -> Node {
    let data = word(text)
        .or_else(|| number(text))
        .unwrap_or_else(|| Data::Text(text.into()));
    let mut node = Node::new(line, data);
    let is_plain = match &node.data {
        Data::Null | Data::Text(_) => true,
        _ => node.scalar().is_some_and(|plain| plain == text),
    };
    if !is_plain {
        node.raw = Some(text.into());
    }
    node
}

fn word(text: &str) -> Option<Data> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Data::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Data::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Data::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" => Data::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Data::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Data::Float(f64::NEG_INFINITY),
        _ => return None,
    })
}

fn number(text: &str) -> Option<Data> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return None;
    }
    let text = text.replace('_', "");
    integer(&text).or_else(|| {
        is_float(&text)
            .then(|| text.parse().ok())
            .flatten()
            .map(Data::Float)
    })
}

/// Decimal, or by prefix octal (`0`, `0o`), hexadecimal or binary.
fn integer(text: &str) -> Option<Data> {
    let (is_negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (&lower[2..], 16),
        Some("0o") => (&lower[2..], 8),
        Some("0b") => (&lower[2..], 2),
        Some(_) if lower.starts_with('0') => (&lower[1..], 8),
        _ => (&*lower, 10),
    };
    // The parser of numbers would take a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    match (is_negative, i64::try_from(magnitude)) {
        (false, Ok(value)) => Some(Data::Int(value)),
        (false, Err(_)) => Some(Data::Large(magnitude)),
        (true, Ok(value)) => Some(Data::Int(-value)),
        (true, Err(_)) => None,
    }
}

/// Whether a text is an amount of a resource: a number, and an exponent or a unit.
pub(super) fn is_quantity(text: &str) -> bool {
    const UNITS: [&str; 15] = [
        "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    let units = UNITS.iter().filter_map(|unit| text.strip_suffix(unit));
    let mut numbers = units.filter(|number| !number.contains(['e', 'E']));
    is_float(text) || numbers.any(is_float)
}

/// Digits with at most one point, and an exponent.
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let has_exponent = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && is_digits(digits)
    });
    has_exponent
        && is_digits(whole)
        && is_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_mean_what_they_mean_to_kubectl() {
        let text = |text: &str| Data::Text(text.into());
        for (spelled, data) in [
            ("", Data::Null),
            ("~", Data::Null),
            ("yes", Data::Bool(true)),
            ("Off", Data::Bool(false)),
            ("80", Data::Int(80)),
            ("-1", Data::Int(-1)),
            ("+5", Data::Int(5)),
            ("0777", Data::Int(0o777)),
            ("0o17", Data::Int(15)),
            ("0x50", Data::Int(80)),
            ("0b11", Data::Int(3)),
            ("8_080", Data::Int(8080)),
            ("18446744073709551615", Data::Large(u64::MAX)),
            ("0088", Data::Float(88.0)),
            ("80.0", Data::Float(80.0)),
            ("1e3", Data::Float(1000.0)),
            (".5", Data::Float(0.5)),
            ("8O80", text("8O80")),
            ("1e", text("1e")),
            ("+-5", text("+-5")),
            ("0x", text("0x")),
            ("10.96.0.1", text("10.96.0.1")),
            ("2001-01-01", text("2001-01-01")),
            ("12:30", text("12:30")),
            ("-", text("-")),
            (".", text(".")),
            ("é", text("é")),
            ("0é", text("0é")),
        ] {
            assert_eq!(resolve(spelled, 1).data, data, "{spelled}");
        }
    }

    #[test]
    fn quantities_are_those_of_the_api() {
        for text in [
            "1", "0.5", ".5", "5.", "-1", "+1", "500m", "64Mi", "1e3", "1E-3", "2E", "12e6", "1k",
        ] {
            assert!(is_quantity(text), "{text}");
        }
        for text in [
            "", "m", "64MB", "64mi", "100 m", "1K", "0x10", "1e3Mi", "1..5", "1,5", "ten",
        ] {
            assert!(!is_quantity(text), "{text}");
        }
    }

    #[test]
    fn an_unusual_spelling_is_kept() {
        assert_eq!(resolve("0777", 1).raw.as_deref(), Some("0777"));
        assert_eq!(resolve("yes", 1).raw.as_deref(), Some("yes"));
        assert_eq!(resolve("true", 1).raw, None);
        assert_eq!(resolve("80", 1).raw, None);
    }
}
