//! How a service's backends are chosen: annotations of our own, which the API server takes as they are.
//!
//! So nothing in them refuses a service; what is wrong is a warning, and the agent's default is used.

use super::{super::Remarks, no_choice};
use crate::{
    desired::{Algorithm, MAX_MAGLEV_SIZE},
    model::{
        object::Annotations,
        service::{ANNOTATION_ALGORITHM, ANNOTATION_MAGLEV_SIZE},
    },
};

/// The algorithm that the service asks for, if any.
pub(super) fn algorithm(annotations: &Annotations, remarks: &mut Remarks) -> Option<Algorithm> {
    let text = annotations.get(ANNOTATION_ALGORITHM)?;
    let named = Algorithm::named(text);
    if named.is_none() {
        let message = no_choice(text, "algorithm", &Algorithm::ALL.map(Algorithm::name));
        let message = format!("{message}; the agent's default is used");
        remarks.warning(&field(ANNOTATION_ALGORITHM), message);
    }
    named
}

/// Places of its Maglev tables, if it says.
pub(super) fn maglev_size(annotations: &Annotations, remarks: &mut Remarks) -> Option<u32> {
    let text = annotations.get(ANNOTATION_MAGLEV_SIZE)?;
    let size = text.parse().ok();
    let size = size.filter(|size| (1..=MAX_MAGLEV_SIZE).contains(size));
    if size.is_none() {
        let message = format!(
            "`{text}` is no size for a table; use 1 to {MAX_MAGLEV_SIZE}; the size that follows from the number of \
             endpoints is used"
        );
        remarks.warning(&field(ANNOTATION_MAGLEV_SIZE), message);
    }
    size
}

fn field(annotation: &str) -> String {
    format!("metadata.annotations.{annotation}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(pairs: &[(&str, &str)]) -> (Option<Algorithm>, Option<u32>, Vec<String>) {
        let annotations = pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()));
        let annotations = annotations.collect();
        let mut remarks = Remarks::default();
        let algorithm = algorithm(&annotations, &mut remarks);
        let size = maglev_size(&annotations, &mut remarks);
        (algorithm, size, remarks.texts())
    }

    #[test]
    fn what_is_written_right_is_taken() {
        assert_eq!(judged(&[]), (None, None, Vec::new()));
        let given = [
            ("fulcrum.dev/algorithm", "maglev"),
            ("fulcrum.dev/maglev-size", "1021"),
        ];
        let expected = (Some(Algorithm::Maglev), Some(1_021), Vec::new());
        assert_eq!(judged(&given), expected);
        let random = judged(&[("fulcrum.dev/algorithm", "random")]);
        assert_eq!(random.0, Some(Algorithm::Random));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_may_stand_there() {
        let (algorithm, _, said) = judged(&[("fulcrum.dev/algorithm", "Maglev")]);
        assert_eq!(algorithm, None);
        assert_eq!(
            said,
            [
                "warning metadata.annotations.fulcrum.dev/algorithm: `Maglev` is no algorithm; use random, maglev or \
                 least-connections (did you mean `maglev`?); the agent's default is used"
            ]
        );
        for wrong in ["0", "-1", "524289", "many", ""] {
            let (_, size, said) = judged(&[("fulcrum.dev/maglev-size", wrong)]);
            assert_eq!(size, None, "{wrong}");
            assert_eq!(
                said,
                [format!(
                    "warning metadata.annotations.fulcrum.dev/maglev-size: `{wrong}` is no size for a table; use 1 to \
                     524288; the size that follows from the number of endpoints is used"
                )]
            );
        }
    }
}
