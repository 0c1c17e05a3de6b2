//! Good manifests, mangled: nothing panics, what is refused is told, and the document beside it is read.

use std::fs;

use lb_user::source::manifest::{self, Outcome};
use proptest::{prelude::*, sample::Index};

use super::testdata;

const GOOD: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: beside}\n";
/// Pieces that make trouble.
const PIECES: [&str; 40] = [
    "---\n",
    "...\n",
    "--\n",
    "{",
    "}",
    "[",
    "]",
    ": ",
    ":",
    "- ",
    "&a ",
    "*a",
    "<<: ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "\n",
    "\t",
    " ",
    "#",
    "%",
    "@",
    "!",
    "!!binary ",
    "? ",
    "null",
    "~",
    "yes",
    "0777",
    "1e9",
    "-1",
    "99999999999",
    ".inf",
    "\0",
    "\u{feff}",
    "\u{a0}",
    "…",
    "\r",
    "\u{2028}",
];

/// Texts to begin with: manifests of the scenarios and documents, and a list as JSON.
fn seeds() -> Vec<String> {
    let mut seeds = vec![
        r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}]}"#
            .to_owned(),
        "apiVersion: v1\nkind: Pod\nmetadata: &m\n  name: p\n  labels: &l {a: b}\nspec:\n  nodeName: n\nstatus:\n  podIPs:\n  \
         - ip: 10.0.0.1\n  conditions: [{type: Ready, status: \"True\"}]\n"
            .to_owned(),
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s\n  labels:\n    \
         kubernetes.io/service-name: web\naddressType: IPv4\nports:\n- {name: '', port: 80}\nendpoints:\n- addresses: \
         [10.0.0.1]\n  conditions: {ready: true}\n"
            .to_owned(),
    ];
    for entry in fs::read_dir(testdata("documents")).expect("a directory") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("text");
        // Cut anywhere: half of a document is as good as a whole one.
        let blocks = text.split("apiVersion:").skip(1);
        seeds.extend(blocks.map(|block| {
            let block = block.split(['`', '~']).next().unwrap_or_default();
            format!("apiVersion:{block}")
        }));
    }
    seeds
}

#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Insert(Index, usize),
    Cut(Index, usize),
    DropLine(Index),
    RepeatLine(Index),
    MoveLine(Index, Index),
    Indent(Index, usize),
    Truncate(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Flip(at, byte)),
        (at(), 0..PIECES.len()).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (at(), 1..20_usize).prop_map(|(at, len)| Change::Cut(at, len)),
        at().prop_map(Change::DropLine),
        at().prop_map(Change::RepeatLine),
        (at(), at()).prop_map(|(from, to)| Change::MoveLine(from, to)),
        (at(), 1..5_usize).prop_map(|(at, blanks)| Change::Indent(at, blanks)),
        at().prop_map(Change::Truncate),
    ]
}

fn apply(bytes: Vec<u8>, change: &Change) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    let mut lines: Vec<Vec<u8>> = bytes
        .split_inclusive(|b| *b == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    let mut bytes = bytes;
    match change {
        Change::Flip(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
            return bytes;
        }
        Change::Insert(at, piece) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, PIECES[*piece].bytes());
            return bytes;
        }
        Change::Cut(at, len) => {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + len).min(bytes.len()));
            return bytes;
        }
        Change::Truncate(at) => {
            bytes.truncate(at.index(bytes.len()));
            return bytes;
        }
        Change::DropLine(at) => {
            lines.remove(at.index(lines.len()));
        }
        Change::RepeatLine(at) => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
        }
        Change::MoveLine(from, to) => {
            let line = lines.remove(from.index(lines.len()));
            let to = to.index(lines.len() + 1);
            lines.insert(to, line);
        }
        Change::Indent(at, blanks) => {
            let at = at.index(lines.len());
            lines[at].splice(0..0, vec![b' '; *blanks]);
        }
    }
    lines.concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn mangled_manifests_are_accounted_for(
        seed in any::<Index>(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        thread_local! {
            static SEEDS: Vec<String> = seeds();
        }
        let text = SEEDS.with(|seeds| seeds[seed.index(seeds.len())].clone());
        let mangled = changes.iter().fold(text.into_bytes(), apply);
        let lines = mangled.split(|b| *b == b'\n').count();
        let beside = format!("\n---\n{GOOD}");
        let parsed = manifest::parse_bytes("m", [&mangled, beside.as_bytes()].concat());
        // A text of two bytes per character is none at all, and says so.
        let is_wide = parsed.findings.iter().any(|finding| finding.message.contains("UTF-"));
        let has_good = parsed.objects.iter().any(|o| o.reference().to_string() == "Node beside");
        prop_assert!(has_good || is_wide, "{:?}", parsed.findings);
        for judged in &parsed.judged {
            let is_told = parsed.findings.iter().any(|finding| finding.object == judged.label);
            prop_assert!(judged.outcome == Outcome::Used || is_told, "{judged:?}: {:?}", parsed.findings);
        }
        for finding in &parsed.findings {
            prop_assert!(finding.line <= lines + 1, "{finding}");
        }
    }
}
