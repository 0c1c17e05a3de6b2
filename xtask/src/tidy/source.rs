//! A Rust source file as a sequence of tokens, with comments and literals left out.
//!
//! Knows just enough of the language that no word of a comment or a string is taken for code. Never fails: what does not
//! lex as Rust still gives tokens.

/// A Rust file and what it consists of.
#[derive(Debug)]
pub(super) struct Source {
    path: String,
    text: String,
    tokens: Vec<Token>,
}

/// A word, the separator `::`, or one other character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// Counted from one.
    pub(super) line: usize,
}

impl Source {
    pub(super) fn new(path: String, text: String) -> Self {
        let tokens = tokens(&code(&text));
        Self { path, text, tokens }
    }

    /// Relative to the root of the workspace.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The positions at which these tokens stand one after the other.
    pub(super) fn find<'a>(&'a self, pattern: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
        let windows = self.tokens.windows(pattern.len()).enumerate();
        windows.filter_map(move |(idx, window)| {
            let matches = window
                .iter()
                .zip(pattern)
                .all(|(token, text)| token.text == *text);
            matches.then_some(idx)
        })
    }
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (line, text) in (1..).zip(code.lines()) {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = if is_word(first) {
                rest.find(|char| !is_word(char)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(len);
            tokens.push(Token {
                text: token.to_owned(),
                line,
            });
            rest = after.trim_start();
        }
    }
    tokens
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// The text with comments left out and literals emptied. Lines stay where they are.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.chars().next_back().is_some_and(is_word);
        let (kept, len) = match literal(rest, after_word) {
            Some((kept, len)) => (kept, len),
            None => (&rest[..first.len_utf8()], first.len_utf8()),
        };
        code.push_str(kept);
        if kept != &rest[..len] {
            code.extend(rest[..len].matches('\n'));
        }
        rest = &rest[len..];
    }
    code
}

/// If a comment or a literal begins here: what stands for it, and its length.
fn literal(rest: &str, after_word: bool) -> Option<(&'static str, usize)> {
    if rest.starts_with("//") {
        return Some((" ", rest.find('\n').unwrap_or(rest.len())));
    }
    if rest.starts_with("/*") {
        return Some((" ", block_comment_len(rest)));
    }
    if rest.starts_with('"') {
        return Some(("\"\"", string_len(rest)));
    }
    if rest.starts_with('\'') {
        return char_len(rest).map(|len| ("''", len));
    }
    // The prefix of a raw string is never the end of a longer word.
    let raw = rest.strip_prefix('r').filter(|_| !after_word)?;
    let n_hashes = raw.len() - raw.trim_start_matches('#').len();
    let body = raw[n_hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(n_hashes));
    let body_len = body
        .find(&end)
        .map_or(body.len(), |start| start + end.len());
    Some(("\"\"", rest.len() - body.len() + body_len))
}

/// Block comments nest.
fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn string_len(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `None` for a lifetime or a label.
fn char_len(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        chars.next()?;
    }
    chars.find_map(|(at, char)| match (first, char) {
        (_, '\'') => Some(Some(at + 1)),
        // Only an escape is longer than one character.
        ('\\', _) => None,
        _ => Some(None),
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let source = Source::new("a.rs".to_owned(), text.to_owned());
        source
            .tokens()
            .iter()
            .map(|token| token.text.clone())
            .collect()
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = r##"a /* b /* c */ d */ e // f "
            "g \" h" 'i' '\'' '\u{1F600}' r"j\" r#"k " l"# b"m" "##;
        let expected = [
            "a", "e", "\"", "\"", "'", "'", "'", "'", "'", "'", "\"", "\"", "\"", "\"", "b", "\"",
            "\"",
        ];
        assert_eq!(words(text), expected);
    }

    #[test]
    fn lifetimes_are_not_characters() {
        assert_eq!(words("&'a T, 'b'"), ["&", "'", "a", "T", ",", "'", "'"]);
    }

    #[test]
    fn a_word_that_ends_like_a_prefix_is_left_alone() {
        assert_eq!(
            words("for\"x\" r#type"),
            ["for", "\"", "\"", "r", "#", "type"]
        );
    }

    #[test]
    fn lines_are_counted_through_literals_and_comments() {
        let source = Source::new(
            "a.rs".to_owned(),
            "\"one\ntwo\" /* three\n */ word".to_owned(),
        );
        let word = source.tokens().last().unwrap();
        assert_eq!((word.text.as_str(), word.line), ("word", 3));
    }

    #[test]
    fn unfinished_literals_end_with_the_file() {
        for text in ["\"a", "/* a", "r#\"a\"", "'\\", "'", "// a"] {
            assert!(!words(text).contains(&"a".to_owned()), "{text}");
        }
    }

    #[test]
    fn a_sequence_of_tokens_is_found_across_blanks() {
        let source = Source::new("a.rs".to_owned(), "x # [ ignore\n] #[ignore]".to_owned());
        assert_eq!(
            source.find(&["#", "[", "ignore"]).collect::<Vec<_>>(),
            [1, 5]
        );
    }
}
