//! A description while it is written: indented lines whose cells end with tabs.

use std::{fmt::Display, time::SystemTime};

use serde_json::Value;

use crate::cli::{
    object::{NONE, pairs, text, text_or, time},
    output, tabs,
};

/// Longest annotation that stands in one line, key and all.
const MAX_ANNOTATION: usize = 140;
/// The annotation in which `kubectl apply` keeps the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// See the module.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// A line, indented twice as many blanks as `level`.
    pub(super) fn line(&mut self, level: usize, line: impl Display) {
        self.0.extend(std::iter::repeat_n("  ", level));
        self.0.push_str(&line.to_string());
        self.0.push('\n');
    }

    /// `NAME:` and a value.
    pub(super) fn field(&mut self, level: usize, name: &str, value: impl Display) {
        self.line(level, format_args!("{name}:\t{value}"));
    }

    /// `NAME:` and a value, where there is one.
    pub(super) fn given(&mut self, level: usize, name: &str, value: &str) {
        if !value.is_empty() {
            self.field(level, name, value);
        }
    }

    /// Name and namespace of an object.
    pub(super) fn name(&mut self, object: &Value) {
        self.field(0, "Name", text(object, "/metadata/name"));
        self.field(0, "Namespace", text(object, "/metadata/namespace"));
    }

    /// Labels and annotations of an object.
    pub(super) fn labels_and_annotations(&mut self, object: &Value) {
        self.pairs("Labels", object, "/metadata/labels");
        self.annotations(object);
    }

    /// A map of texts, one pair in a line.
    pub(super) fn pairs(&mut self, name: &str, object: &Value, pointer: &str) {
        let pairs = pairs(object, pointer);
        let texts = pairs.iter().map(|(key, value)| format!("{key}={value}"));
        self.several(name, texts);
    }

    /// Values below each other.
    pub(super) fn several(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        let mut values = values.into_iter();
        self.field(0, name, values.next().unwrap_or_else(|| NONE.to_owned()));
        values.for_each(|value| self.line(0, format_args!("\t{value}")));
    }

    fn annotations(&mut self, object: &Value) {
        let pairs = pairs(object, "/metadata/annotations");
        let shown = pairs.into_iter().filter(|(key, _)| *key != LAST_APPLIED);
        self.several(
            "Annotations",
            shown.map(|(key, value)| annotation(key, value)),
        );
    }

    /// The whole of an object, laid out.
    pub(super) fn finish(mut self) -> String {
        self.field(0, "Events", NONE);
        self.lay_out()
    }

    /// What was written, laid out.
    pub(super) fn lay_out(self) -> String {
        output::visible(&tabs::lay_out(&self.0))
    }
}

/// Several lines, or a long one, stand below the key.
fn annotation(key: &str, value: &str) -> String {
    let value = value.strip_suffix('\n').unwrap_or(value);
    if key.len() + value.len() + 2 <= MAX_ANNOTATION && !value.contains('\n') {
        return format!("{key}: {value}");
    }
    let mut all = format!("{key}:");
    for line in value.split('\n') {
        const MAX: usize = MAX_ANNOTATION - 2;
        all.push_str("\n\t  ");
        all.push_str(line.get(..line.floor_char_boundary(MAX)).unwrap_or(line));
        if line.len() > MAX {
            all.push_str("...");
        }
    }
    all
}

/// A time as in `Mon, 02 Jan 2006 15:04:05 +0000`; empty where there is none.
pub(super) fn date(object: &Value, pointer: &str) -> String {
    time(object, pointer).map_or_else(String::new, rfc_1123)
}

/// RFC 1123 with a numeric zone, which is UTC.
fn rfc_1123(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    const SECONDS_OF_A_DAY: u64 = 24 * 60 * 60;
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let weekday = since.as_secs() / SECONDS_OF_A_DAY % 7;
    let weekday = usize::try_from(weekday).ok().and_then(|day| DAYS.get(day));
    // YYYY-MM-DDTHH:MM:SSZ
    let stamp = humantime::format_rfc3339_seconds(time).to_string();
    let part = |from: usize, to: usize| stamp.get(from..to).unwrap_or_default();
    let month = part(5, 7).parse::<usize>().unwrap_or_default();
    let month = month.checked_sub(1).and_then(|month| MONTHS.get(month));
    format!(
        "{}, {} {} {} {} +0000",
        weekday.unwrap_or(&""),
        part(8, 10),
        month.unwrap_or(&""),
        part(0, 4),
        part(11, 19),
    )
}

/// `True` or `False`, as Kubernetes writes it in conditions.
pub(super) fn capital(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// A number or a text.
pub(super) fn scalar(object: &Value, pointer: &str) -> String {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(value) if !value.is_null() => value.to_string(),
        _ => String::new(),
    }
}

/// A text, or `<unset>`.
pub(super) fn or_unset<'a>(object: &'a Value, pointer: &str) -> &'a str {
    text_or(object, pointer, "<unset>")
}
