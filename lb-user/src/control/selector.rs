//! Label selectors as `-l` takes them: `app=web,tier!=db,zone in (a, b),track notin (x),owner,!legacy`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::model::object::Labels;

/// Requirements that all hold; none: everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    text: String,
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// What is no selector, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{part}` is no requirement of a label selector; write KEY=VALUE, KEY!=VALUE, KEY in (A, B), KEY notin (A, B), KEY or !KEY, with commas between"
)]
pub struct SelectorError {
    part: String,
}

impl Selector {
    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether labels meet every requirement. A missing label meets `!=` and `notin`.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&*requirement.key);
            match &requirement.condition {
                Condition::In(values) => value.is_some_and(|value| is_among(value, values)),
                Condition::NotIn(values) => value.is_none_or(|value| !is_among(value, values)),
                Condition::Exists => value.is_some(),
                Condition::Absent => value.is_none(),
            }
        })
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let requirements = split(text)
            .into_iter()
            .map(requirement)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            text: text.to_owned(),
            requirements,
        })
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;

    fn try_from(text: String) -> Result<Self, SelectorError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.text
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn is_among(value: &str, values: &[String]) -> bool {
    values.iter().any(|it| it == value)
}

/// At the commas that stand outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let mut is_inside = false;
    let at_comma = |c: char| {
        match c {
            '(' => is_inside = true,
            ')' => is_inside = false,
            _ => {}
        }
        c == ',' && !is_inside
    };
    text.split(at_comma).map(str::trim).collect()
}

fn requirement(part: &str) -> Result<Requirement, SelectorError> {
    let wrong = || SelectorError {
        part: part.to_owned(),
    };
    let (key, condition) = if let Some(key) = part.strip_prefix('!') {
        (key, Condition::Absent)
    } else if let Some((key, value)) = part.split_once("!=") {
        (key, Condition::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, Condition::In(vec![value.trim().to_owned()]))
    } else if let Some((key, rest)) = part.split_once(char::is_whitespace) {
        (key, set(rest.trim()).ok_or_else(wrong)?)
    } else {
        (part, Condition::Exists)
    };
    let key = key.trim();
    let is_word = |text: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        text.chars().all(is_part)
    };
    let values: &[String] = match &condition {
        Condition::In(values) | Condition::NotIn(values) => values,
        Condition::Exists | Condition::Absent => &[],
    };
    if key.is_empty() || !is_word(key) || !values.iter().all(|value| is_word(value)) {
        return Err(wrong());
    }
    Ok(Requirement {
        key: key.to_owned(),
        condition,
    })
}

/// `in (a, b)` or `notin (a, b)`.
fn set(text: &str) -> Option<Condition> {
    let (operator, rest): (fn(_) -> _, _) = match text.strip_prefix("notin") {
        Some(rest) => (Condition::NotIn, rest),
        None => (Condition::In, text.strip_prefix("in")?),
    };
    let inner = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
    let values = inner.split(',').map(|value| value.trim().to_owned());
    Some(operator(values.collect()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let own = |(key, value): &(&str, &str)| (Arc::from(*key), Arc::from(*value));
        pairs.iter().map(own).collect()
    }

    #[test]
    fn every_operator_means_what_kubectl_means() {
        let web = labels(&[("app", "web"), ("example.org/tier", "front")]);
        for (text, matches) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , example.org/tier=front", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (db, web)", true),
            ("app in (db),app", false),
            ("app notin (db)", true),
            ("other notin (x)", true),
            ("app notin (web, db)", false),
            ("app", true),
            ("other", false),
            ("!other", true),
            ("!app", false),
            ("app=web,!other", true),
        ] {
            let selector: Selector = text.parse().expect(text);
            assert_eq!(selector.matches(&web), matches, "{text}");
            assert_eq!(selector.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_selector_is_named() {
        for text in [
            "=web",
            "app in web",
            "app is web",
            "a=b,,c=d",
            "app in (a",
            "a b=c",
            "a=b=c",
        ] {
            let error = text.parse::<Selector>().expect_err(text).to_string();
            assert!(error.contains("is no requirement"), "{text}: {error}");
        }
    }
}
