//! "Did you mean": the nearest word of a list.

/// Longest word that is compared, in bytes.
const MAX_WORD: usize = 100;

/// The candidate nearest to `word`, if it is near enough to be a slip of the finger: at most two
/// edits, and fewer than half of the word.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // No field and no kind is as long as that; comparing costs the product of both lengths.
    if word.len() > MAX_WORD {
        return None;
    }
    let limit = (word.chars().count().saturating_sub(1) / 2).min(2);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        // A word that differs by its letter case alone is meant.
        .filter(|(edits, candidate)| *edits <= limit || candidate.eq_ignore_ascii_case(word))
        .min()
        .map(|(_, candidate)| candidate)
}

/// ` (did you mean X?)`, or nothing.
pub(crate) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates)
        .map(|candidate| format!(" (did you mean `{candidate}`?)"))
        .unwrap_or_default()
}

/// Insertions, deletions and replacements between two words (Levenshtein), letter case ignored.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let kinds = ["Service", "Endpoints", "Pod"];
        assert_eq!(nearest("Servie", kinds), Some("Service"));
        assert_eq!(nearest("service", kinds), Some("Service"));
        assert_eq!(nearest("Endpoint", kinds), Some("Endpoints"));
        assert_eq!(nearest("Widget", kinds), None);
        assert_eq!(nearest("xy", kinds), None);
    }
}
