//! How much of a service an endpoint gets, compared with others: an annotation of our own, which the API server takes as it is.

use super::{Remarks, meta::Texts};
use crate::model::object::{ANNOTATION_WEIGHT, MAX_WEIGHT, weight};

/// Wants a weight, if there is any.
pub(super) fn want_weight(annotations: &Texts, remarks: &mut Remarks) {
    if let Some(text) = annotations.get(ANNOTATION_WEIGHT)
        && weight(text).is_none()
    {
        let message = format!("`{text}` is no weight; use 0 to {MAX_WEIGHT}; 1 is used");
        remarks.warning(
            &format!("metadata.annotations.{ANNOTATION_WEIGHT}"),
            message,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let annotations = [(ANNOTATION_WEIGHT.to_owned(), text.to_owned())];
        let mut remarks = Remarks::default();
        want_weight(&annotations.into(), &mut remarks);
        remarks.texts()
    }

    #[test]
    fn a_weight_is_a_whole_number_up_to_a_hundred() {
        for right in ["0", "1", "100"] {
            assert_eq!(said(right), Vec::<String>::new(), "{right}");
        }
        for wrong in ["101", "-1", "0.5", "heavy", ""] {
            let expected = format!(
                "warning metadata.annotations.fulcrum.dev/weight: `{wrong}` is no weight; use 0 to 100; 1 is used"
            );
            assert_eq!(said(wrong), [expected]);
        }
    }
}
