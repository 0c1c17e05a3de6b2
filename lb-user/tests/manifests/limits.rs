//! What a text may cost is bounded, and what stays within the bounds is read with every line.

use lb_user::source::{dir, manifest};

const SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80}]}\n";

/// A text and a good object behind it: the one finding, and the object.
fn one_finding(text: &str) -> String {
    let parsed = manifest::parse("m", &format!("{text}\n---\n{SERVICE}"));
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(parsed.findings.len(), 1, "{:?}", &parsed.findings[..3]);
    parsed.findings[0].to_string()
}

#[test]
fn a_document_that_is_too_large_deep_or_many_is_refused_alone() {
    let lines = "- {}\n".repeat(1_000_000);
    let laughs: String = (1..60)
        .map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1))
        .collect::<Vec<_>>()
        .concat();
    for (text, told) in [
        (
            format!("# {}\na: {}", "y".repeat(17 << 20), "x".repeat(33 << 20)),
            "bytes",
        ),
        ("[".repeat(100_000), "deeper"),
        ("{\"a\":".repeat(100_000), "deeper"),
        ("- ".repeat(100_000), "deeper"),
        (format!("a0: &a0 [x]\n{laughs}"), "aliases"),
        (lines.replace("{}", "{a: 1, b: 2}"), "commas"),
        (lines.replace("{}", "x"), "values"),
    ] {
        let finding = one_finding(&text);
        assert!(finding.contains(told), "{finding}");
    }
}

#[test]
fn a_list_of_a_million_lines_keeps_the_line_of_every_item() {
    let items: String = (0..50_000)
        .map(|n| {
            let port = if n == 49_999 { "x" } else { "1" };
            format!("- apiVersion: v1\n  kind: Service\n  metadata: {{name: s{n}}}\n  spec:\n    ports:\n    - port: {port}{}", "\n".repeat(15))
        })
        .collect::<Vec<_>>()
        .concat();
    let parsed = manifest::parse("m", &format!("apiVersion: v1\nkind: List\nitems:\n{items}"));
    assert_eq!(parsed.objects.len(), 49_999);
    assert_eq!(parsed.objects[35_000].origin().line, 4 + 700_000);
    let [finding] = &parsed.findings[..] else {
        panic!("{:?}", parsed.findings.len())
    };
    assert_eq!(finding.line, 4 + 49_999 * 20 + 5);
}

#[test]
fn findings_are_bounded() {
    let items = "- {}\n".repeat(300_000);
    let parsed = manifest::parse("m", &format!("apiVersion: v1\nkind: List\nitems:\n{items}"));
    assert_eq!(parsed.findings.len(), 10_001);
    assert!(parsed.findings[10_000].message.contains("290000"));
    let labels: String = (0..1000)
        .map(|n| format!("    l{n}: {n}\n"))
        .collect::<Vec<_>>()
        .concat();
    let text = format!("apiVersion: v1\nkind: Node\nmetadata:\n  name: node\n  labels:\n{labels}");
    assert_eq!(manifest::parse("m", &text).findings.len(), 100);
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let error = dir::read_all(std::io::repeat(b'#')).expect_err("it never ends");
    assert!(error.to_string().contains("64 MiB"), "{error}");
}
