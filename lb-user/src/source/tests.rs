//! Text as people write it, and text that nobody would: every one ends in objects and findings.

use proptest::prelude::*;

use super::manifest::{self, Parsed};

/// Blocks as tutorials print them, each with its objects and the beginnings of its findings.
const BLOCKS: [(&str, &[&str], &[&str]); 9] = [
    (
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: hostname\nspec:\n  ports:\n  - port: 80 # 포트\n    \
         targetPort: 8080\n  selector:\n    app: hostname\n",
        &["Service default/hostname"],
        &[],
    ),
    (
        "kind: Service\nspec:\n  ports:\n  - name: http\n    port: 80\n",
        &[],
        &[
            "m:1: error: Service: apiVersion: the field is missing",
            "m:1: error: Service: metadata.name: the field is missing",
        ],
    ),
    (
        "apiVersion: v1\nkind: Service\nspec:\n  sessionAffinity: ClientIP\n",
        &[],
        &[
            "m:1: error: Service: metadata.name: the field is missing",
            "m:3: error: Service: spec.ports: the field is missing",
        ],
    ),
    (
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  ports:\n    - port: 80\n  type:NodePort\n",
        &[],
        &[
            "m:8: error: Service default/a: a line without a colon stands where a field must be; in `type:NodePort` a space is missing",
        ],
    ),
    (
        "apiVersion: v1\nkind: Servie\nmetadata:\n  name: a\nspec:\n  type: LoadBalancer\n",
        &[],
        &[
            "m:2: error: Servie default/a: kind: there is no kind `Servie` (did you mean `Service`?)",
        ],
    ),
    (
        "apiVersion: v1\nkind: Endpoints\nmetadata:\n  name: a\nsubsets:\n  - addresses:\n    - ip: 11.11.11.11\n    \
         - ip: 22.22.22.22\n    ports:\n    - port: 80\n",
        &["Endpoints default/a"],
        &[],
    ),
    (
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  type: ExternalName\n  \
         externalName: api.example.com\n  ports:\n  - port: 80\n",
        &["Service default/a"],
        &[],
    ),
    (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: a\n---\napiVersion: v1\nkind: Service\n\
         metadata:\n  name: a\nspec:\n  clusterIP: None\n  externTrafficPolicy: Local\n",
        &["Service default/a"],
        &[
            "m:2: notice: Deployment default/a: kind: objects of kind Deployment are not used",
            "m:12: warning: Service default/a: spec.externTrafficPolicy: there is no such field",
        ],
    ),
    (
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: a\n--\napiVersion: v1\nkind: Node\n",
        &[],
        &[
            "m:5: error: Node a: a line without a colon stands where a field must be; `--` in line 5 does not separate",
        ],
    ),
];

#[test]
fn blocks_of_tutorials_get_their_verdict() {
    for (text, objects, findings) in BLOCKS {
        let parsed = manifest::parse("m", text);
        let names: Vec<_> = parsed
            .objects
            .iter()
            .map(|object| object.reference().to_string())
            .collect();
        assert_eq!(names, objects, "{text}");
        let lines: Vec<_> = parsed.findings.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), findings.len(), "{text}\n{lines:#?}");
        for (line, beginning) in lines.iter().zip(findings) {
            assert!(line.starts_with(beginning), "{text}\n{line}");
        }
    }
}

/// What is refused is said, and what is said stands at a line that the text has.
fn is_accounted_for(text: &str) -> bool {
    let Parsed {
        rejected,
        unknown,
        findings,
        ..
    } = manifest::parse("m", text);
    let lines = text.lines().count();
    let is_refused = unknown || !rejected.is_empty();
    (!is_refused || !findings.is_empty()) && findings.iter().all(|finding| finding.line <= lines)
}

proptest! {
    #[test]
    fn any_text_is_accounted_for(text in "\\PC*") {
        prop_assert!(is_accounted_for(&text));
    }

    /// A block with a piece of it replaced.
    #[test]
    fn a_mangled_block_is_accounted_for(
        block in 0..BLOCKS.len(),
        from in any::<prop::sample::Index>(),
        len in 0..8_usize,
        piece in "(---|\\{|\\[|: |- |&a |\\*a |\n| |[0-9]{1,12}|null|!x |\t|\"|[a-zA-Z]{0,3})",
    ) {
        let mut text: Vec<char> = BLOCKS[block].0.chars().collect();
        let from = from.index(text.len());
        let to = (from + len).min(text.len());
        text.splice(from..to, piece.chars());
        let text: String = text.into_iter().collect();
        prop_assert!(is_accounted_for(&text));
    }
}
