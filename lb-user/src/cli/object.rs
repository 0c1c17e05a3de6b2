//! Fields of Kubernetes objects, by JSON pointer. What is missing is empty.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::output;

/// What stands where there is nothing.
pub(super) const NONE: &str = "<none>";
/// What stands where nobody knows.
pub(super) const UNKNOWN: &str = "<unknown>";

/// A text.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    let text = object.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default()
}

/// A text, or what stands for none.
pub(super) fn text_or<'a>(object: &'a Value, pointer: &str, none: &'a str) -> &'a str {
    match text(object, pointer) {
        "" => none,
        text => text,
    }
}

/// A list.
pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    let list = object.pointer(pointer).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

/// The texts of a list.
pub(super) fn texts<'a>(object: &'a Value, pointer: &str) -> Vec<&'a str> {
    let items = list(object, pointer).iter();
    items.filter_map(Value::as_str).collect()
}

/// A number.
pub(super) fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// Whether a field is true.
pub(super) fn is_true(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer) == Some(&Value::Bool(true))
}

/// The texts of a map, sorted by key.
pub(super) fn pairs<'a>(object: &'a Value, pointer: &str) -> Vec<(&'a str, &'a str)> {
    let map = object.pointer(pointer).and_then(Value::as_object);
    let pairs = map.into_iter().flatten();
    pairs
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
        .collect()
}

/// Labels or a selector in one line.
pub(super) fn labels(object: &Value, pointer: &str) -> String {
    let pairs = pairs(object, pointer);
    let texts: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    or_none(texts.join(","))
}

/// A text, or `<none>`.
pub(super) fn or_none(text: String) -> String {
    if text.is_empty() {
        NONE.to_owned()
    } else {
        text
    }
}

/// A time.
pub(super) fn time(object: &Value, pointer: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339_weak(text(object, pointer)).ok()
}

/// How long ago a time is. A clock that was set back makes nothing older.
pub(super) fn age(since: Option<SystemTime>, now: SystemTime) -> String {
    let Some(since) = since else {
        return UNKNOWN.to_owned();
    };
    let age = now.duration_since(since).unwrap_or(Duration::ZERO);
    output::age(age.as_secs())
}

/// An address with a port: IPv6 in brackets.
pub(super) fn address_with_port(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

/// Endpoints that kubectl prints before it counts the rest.
const MAX_LISTED: usize = 3;

/// The first three, and how many more there are.
pub(super) fn first_three(items: impl IntoIterator<Item = String>) -> String {
    let mut items = items.into_iter();
    let listed: Vec<String> = items.by_ref().take(MAX_LISTED).collect();
    let listed = listed.join(",");
    match items.count() {
        0 => listed,
        more => format!("{listed} + {more} more..."),
    }
}
