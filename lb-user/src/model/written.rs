//! An object as it was written, whole: also the fields that no service needs.
//!
//! For people who look at an object. Nothing that is carried out is read from here. Compressed, since a large
//! cluster's endpoints come by the hundred thousand and are hardly ever looked at: a thousand endpoints of a
//! slice take about 10 KB, a twentieth of their text.

use std::sync::Arc;

use miniz_oxide::{deflate, inflate};
use serde_json::Value;

/// Least text that is compressed, in bytes: below, nothing would be gained.
const MIN_COMPRESSED: usize = 256;
/// Compression for speed.
const LEVEL: u8 = 1;
/// Longest text of an object, in bytes.
const MAX_BYTES: usize = 1 << 28;

/// See the module. Equal where the objects are; empty for an object that nobody wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written(Option<Text>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Text {
    Plain(Arc<[u8]>),
    Deflated(Arc<[u8]>),
}

impl Written {
    /// Keeps `object`, which has no field that its type does not have.
    pub fn new(object: &Value) -> Self {
        let text = object.to_string().into_bytes();
        Self(Some(if text.len() < MIN_COMPRESSED {
            Text::Plain(text.into())
        } else {
            Text::Deflated(deflate::compress_to_vec(&text, LEVEL).into())
        }))
    }

    /// The object; null where nobody wrote it.
    pub fn value(&self) -> Value {
        let text = match &self.0 {
            None => return Value::Null,
            Some(Text::Plain(text)) => serde_json::from_slice(text).ok(),
            Some(Text::Deflated(text)) => inflate::decompress_to_vec_with_limit(text, MAX_BYTES)
                .ok()
                .and_then(|text| serde_json::from_slice(&text).ok()),
        };
        text.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(n_endpoints: usize) -> Value {
        let endpoint = |number: usize| {
            let (third, fourth) = (number / 256, number % 256);
            json!({
                "addresses": [format!("10.244.{third}.{fourth}")],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", number % 50),
                "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("web-5d4f8-{number}")},
            })
        };
        json!({"kind": "EndpointSlice", "endpoints": (0..n_endpoints).map(endpoint).collect::<Vec<_>>()})
    }

    #[test]
    fn what_was_written_comes_back_small_or_large() {
        for object in [json!({"kind": "Node"}), slice(1), slice(1000)] {
            let written = Written::new(&object);
            assert_eq!(written.value(), object);
            assert_eq!(written, Written::new(&object));
        }
        assert_eq!(Written::default().value(), Value::Null);
        assert_ne!(Written::new(&slice(1)), Written::new(&slice(2)));
    }

    #[test]
    fn a_thousand_endpoints_take_a_tenth_of_their_text() {
        let object = slice(1000);
        let text = object.to_string().len();
        let Written(Some(Text::Deflated(kept))) = Written::new(&object) else {
            panic!("not compressed");
        };
        assert!(kept.len() * 10 < text, "{} of {text}", kept.len());
    }
}
