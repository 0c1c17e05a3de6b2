//! One JSON value laid over another.

use serde_json::{Map, Value};

/// `base` with everything that `top` says: objects field by field, lists of one length item by item; else `top` wins.
/// A null in `top` takes the field away.
pub(super) fn over(base: Value, top: Value) -> Value {
    match (base, top) {
        (Value::Object(mut base), Value::Object(top)) => {
            for (key, value) in top {
                let below = base.remove(&key).unwrap_or_default();
                if !value.is_null() {
                    base.insert(key, over(below, value));
                }
            }
            Value::Object(base)
        }
        (Value::Null, Value::Object(top)) => over(Value::Object(Map::new()), Value::Object(top)),
        (Value::Array(base), Value::Array(top)) if base.len() == top.len() => {
            let items = base.into_iter().zip(top);
            Value::Array(items.map(|(base, top)| over(base, top)).collect())
        }
        (_, top) => top,
    }
}

/// The items of the list at `pointer`, each changed; null where there is no list, so that nothing is laid over it.
pub(super) fn items(object: &Value, pointer: &str, change: impl Fn(&Value) -> Value) -> Value {
    match object.pointer(pointer).and_then(Value::as_array) {
        Some(items) => Value::Array(items.iter().map(change).collect()),
        None => Value::Null,
    }
}

/// An object of the fields that have a value.
pub(super) fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let present = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(
        present
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_lies_on_top_wins_and_what_lies_below_shows_where_nothing_lies_on_it() {
        let base = json!({"a": 1, "list": [{"x": 1, "y": 2}], "gone": 3, "kept": {"z": 4}});
        let top = json!({"a": 2, "list": [{"x": 5}], "gone": null, "new": {"n": null}});
        assert_eq!(
            over(base, top),
            json!({"a": 2, "list": [{"x": 5, "y": 2}], "kept": {"z": 4}, "new": {}})
        );
        assert_eq!(over(json!([1, 2]), json!([3])), json!([3]));
    }
}
