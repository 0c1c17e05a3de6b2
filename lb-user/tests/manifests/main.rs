//! Manifests as people write them, and as nobody should: every one gets its verdict, and no other object feels it.
//!
//! Uses what the binary uses: [`lb_user::source::manifest`] and the report of `check-manifests`.

mod documents;
mod faulty;
mod limits;
mod mutated;

use std::path::PathBuf;

use lb_user::{
    cli::check_manifests::{FileText, Report},
    compile::NodeFacts,
};

/// A file or directory of the repository's test data.
fn testdata(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/testdata")).join(path)
}

/// The verdicts on one file, with the prefixes that `run` has by default.
fn judge(name: &str, text: impl Into<Vec<u8>>) -> Report {
    let cidrs = ["10.96.0.0/12", "fd00:10:96::/112"];
    let cidrs = cidrs.map(|cidr| cidr.parse().expect("literal"));
    let facts = NodeFacts {
        service_cidrs: cidrs.to_vec(),
        ..NodeFacts::default()
    };
    let file = FileText {
        name: name.to_owned(),
        bytes: text.into(),
    };
    lb_user::cli::check_manifests::judge(vec![file], &facts)
}
