//! What the verifier says about the programs, compared with a baseline that is kept in the repository.
//!
//! Verified instructions, stack and size are a budget: they grow only when somebody has looked and said so, by writing
//! the baseline anew. Helpers and stack come from the object and must be the same on every kernel. The other figures are
//! the kernel's: on the kernel that the baseline was written on, sizes must be the same to the byte; verified instructions,
//! and on another kernel sizes too, may differ by [`TOLERANCE_PERCENT`].

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::{Context, Result};
use aya::programs::Program;
use lb_common::abi::{NodeConfig, node::features};
use lb_user::loader::object::OBJECT;
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

use crate::{
    listing::{Listing, listings, name_helpers},
    progrun::{Datapath, PROGRAMS, SOCKET_PROGRAMS},
};

/// The program that carries flows from one table to the other.
const CARRY: &str = "carry";
/// By how much the kernel's figures may differ.
pub const TOLERANCE_PERCENT: u32 = 5;

/// All programs on one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The kernel's release.
    pub kernel: String,
    /// Figures by program.
    pub programs: BTreeMap<String, Figures>,
}

/// What one program takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Instructions that the verifier went through.
    pub verified: u32,
    /// Bytes of stack over the deepest chain of calls, as Linux 6.1 counts them.
    pub stack: u32,
    /// Bytes of instructions after the verifier's changes.
    pub xlated: u32,
    /// Bytes of machine code.
    pub jited: u32,
    /// Names of the helpers that it calls.
    pub helpers: Vec<String>,
}

impl Report {
    /// Loads all programs and asks the kernel about them; nothing stays in the kernel.
    pub fn measure() -> Result<Self> {
        let listings = listings(OBJECT)?;
        let mut programs = BTreeMap::new();
        for (suffix, node) in phases() {
            let loaded = if suffix.is_empty() {
                [&PROGRAMS[..], &SOCKET_PROGRAMS].concat()
            } else {
                [&PROGRAMS[..], &[CARRY]].concat()
            };
            let datapath = Datapath::load(node, 1024, &loaded)
                .with_context(|| format!("load the programs{suffix}"))?;
            for name in loaded {
                let listing = listings
                    .get(name)
                    .with_context(|| format!("the object has no program {name}"))?;
                let figures = Figures::of(datapath.programs.program(name)?, listing)?;
                programs.insert(format!("{name}{suffix}"), figures);
            }
        }
        let kernel = uname()
            .context("ask for the kernel's release")?
            .release()
            .to_string_lossy()
            .into_owned();
        Ok(Self { kernel, programs })
    }

    /// Reads a baseline; `None`: there is none yet.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("read {}", path.display()))?,
        };
        let report = serde_json::from_str(&text);
        report
            .map(Some)
            .with_context(|| format!("read {}; write it anew by `--update`", path.display()))
    }

    /// Writes it as the baseline.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// What differs from the baseline more than it may, a line for each.
    pub fn differences(&self, baseline: &Self) -> Vec<String> {
        let sizes = if self.kernel == baseline.kernel {
            0
        } else {
            TOLERANCE_PERCENT
        };
        let mut lines = Vec::new();
        for (name, before) in &baseline.programs {
            match self.programs.get(name) {
                Some(now) => lines.extend(now.differences(before, name, sizes)),
                None => lines.push(format!("{name}: is in the baseline, but not in the object")),
            }
        }
        let new = self
            .programs
            .keys()
            .filter(|name| !baseline.programs.contains_key(*name));
        lines.extend(new.map(|name| format!("{name}: is in the object, but not in the baseline")));
        lines
    }

    /// The figures for people.
    pub fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<32}{:>10}{:>8}{:>10}{:>10}  helpers",
            "program", "verified", "stack", "xlated", "jited"
        )];
        lines.extend(self.programs.iter().map(|(name, figures)| {
            let Figures {
                verified,
                stack,
                xlated,
                jited,
                helpers,
            } = figures;
            format!(
                "{name:<32}{verified:>10}{stack:>8}{xlated:>10}{jited:>10}  {}",
                helpers.join(" ")
            )
        }));
        lines.join("\n")
    }
}

/// Facts with which programs are loaded, and what their names are followed by: as they usually run, where the stack
/// forwards, and while the flow table of a family grows, when they know two. Which of the two new flows go into makes
/// no difference here.
fn phases() -> [(&'static str, NodeConfig); 6] {
    let usual = NodeConfig::default();
    let stack = NodeConfig {
        features: usual.features | features::FORWARD_STACK | features::LEAVING,
        ..usual
    };
    let growing4 = |node: NodeConfig| NodeConfig {
        features: node.features | features::SETTLING,
        other_mask4: 2047,
        ..node
    };
    let growing6 = |node: NodeConfig| NodeConfig {
        features: node.features | features::SETTLING,
        other_mask6: 2047,
        ..node
    };
    [
        ("", usual),
        (" (stack)", stack),
        (" (growing 4)", growing4(usual)),
        (" (growing 4, stack)", growing4(stack)),
        (" (growing 6)", growing6(usual)),
        (" (growing 6, stack)", growing6(stack)),
    ]
}

impl Figures {
    fn of(program: &Program, listing: &Listing) -> Result<Self> {
        let info = program.info().context("ask the kernel about the program")?;
        Ok(Self {
            verified: info.verified_instruction_count().unwrap_or(0),
            stack: listing.stack,
            xlated: info.size_translated().unwrap_or(0),
            jited: info.size_jitted(),
            helpers: name_helpers(&listing.helpers)?,
        })
    }

    fn differences(&self, before: &Self, name: &str, sizes: u32) -> Vec<String> {
        let figures = [
            (
                "verified instructions",
                self.verified,
                before.verified,
                TOLERANCE_PERCENT,
            ),
            ("bytes of stack", self.stack, before.stack, 0),
            ("bytes translated", self.xlated, before.xlated, sizes),
            ("bytes of machine code", self.jited, before.jited, sizes),
        ];
        let differing = figures
            .into_iter()
            .filter(|(_, now, before, percent)| !is_near(*now, *before, *percent));
        let mut lines: Vec<String> = differing
            .map(|(what, now, before, _)| format!("{name}: {now} {what}, {before} in the baseline"))
            .collect();
        if self.helpers != before.helpers {
            let (now, before) = (self.helpers.join(" "), before.helpers.join(" "));
            lines.push(format!("{name}: calls {now}; in the baseline {before}"));
        }
        lines
    }
}

fn is_near(now: u32, before: u32, percent: u32) -> bool {
    u64::from(now.abs_diff(before)) * 100 <= u64::from(before) * u64::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kernel: &str, figures: Figures) -> Report {
        Report {
            kernel: kernel.to_owned(),
            programs: BTreeMap::from([("pod".to_owned(), figures)]),
        }
    }

    fn figures() -> Figures {
        Figures {
            verified: 1000,
            stack: 256,
            xlated: 2000,
            jited: 3000,
            helpers: vec!["redirect".to_owned()],
        }
    }

    #[test]
    fn verified_instructions_may_differ_by_the_tolerance_and_no_more() {
        let baseline = report("6.18", figures());
        let near = report(
            "6.18",
            Figures {
                verified: 1050,
                ..figures()
            },
        );
        assert_eq!(near.differences(&baseline), Vec::<String>::new());
        let far = report(
            "6.18",
            Figures {
                verified: 1051,
                ..figures()
            },
        );
        assert_eq!(
            far.differences(&baseline),
            ["pod: 1051 verified instructions, 1000 in the baseline"]
        );
    }

    #[test]
    fn sizes_are_compared_exactly_on_the_same_kernel_only() {
        let baseline = report("6.18", figures());
        let other = Figures {
            jited: 3001,
            ..figures()
        };
        assert_eq!(
            report("6.18", other.clone()).differences(&baseline),
            ["pod: 3001 bytes of machine code, 3000 in the baseline"]
        );
        assert_eq!(
            report("6.1", other).differences(&baseline),
            Vec::<String>::new()
        );
    }

    #[test]
    fn stack_and_helpers_must_be_the_same_on_every_kernel() {
        let baseline = report("6.18", figures());
        let other = Figures {
            stack: 257,
            helpers: Vec::new(),
            ..figures()
        };
        assert_eq!(
            report("6.1", other).differences(&baseline),
            [
                "pod: 257 bytes of stack, 256 in the baseline",
                "pod: calls ; in the baseline redirect"
            ]
        );
    }

    #[test]
    fn programs_that_came_or_went_are_named() {
        let (with, without) = (
            report("6.18", figures()),
            Report {
                programs: BTreeMap::new(),
                ..report("6.18", figures())
            },
        );
        assert_eq!(
            with.differences(&without),
            ["pod: is in the object, but not in the baseline"]
        );
        assert_eq!(
            without.differences(&with),
            ["pod: is in the baseline, but not in the object"]
        );
    }
}
