//! The same programs over a larger flow table: loaded beside those that run, for each phase of
//! [`lb_common::flow::growth`], and the run of the one that carries the flows over. One family grows at a time: programs
//! that knew four tables would be more than the verifier follows.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    pin::PinError,
    programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions},
};
use lb_common::abi::{
    NodeConfig,
    growth::{FAMILY4, FAMILY6, cell},
    map,
    node::features,
};
use lb_common::net::addr::Family;

use super::{
    LoaderError,
    attach::{Needs, Programs},
    facts,
    form::{self, Found},
    inherit::Inheritance,
    object::{self, Terms},
    pin,
    tracer::{self, Tracer},
    verifier,
};
use crate::config::{FlowTableSizes, Modes};

/// The program in the object.
const CARRY: &str = "carry";
/// Positions that one system call asks for: some milliseconds.
const RUNS_PER_CALL: u32 = 16_384;
/// Words of `struct __sk_buff` in `linux/bpf.h`, as long as Linux 6.1 knows it.
const CONTEXT_WORDS: usize = 46;
/// Bytes that it takes on any kernel there is, and some more: one that is longer than what is given for it is not told.
const CONTEXT_ROOM: usize = 512;
/// Its word `mark`.
const MARK: usize = 2;
/// The first of its words `cb`.
const CB: usize = 12;
/// An Ethernet header and a bit more: the kernel wants a packet, nobody looks at it.
const FRAME: [u8; 64] = [0; 64];

/// Which flow tables the programs know; in this order they take each other's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Both; new flows go into the table in use.
    Announced,
    /// Both; new flows go into the larger one.
    Diverted,
    /// The larger one alone.
    Grown,
}

/// What running programs were loaded with.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Their facts.
    pub node: NodeConfig,
    /// The directory where their maps are pinned.
    pub maps: PathBuf,
    /// Where the program `trace` is pinned.
    pub tracer: PathBuf,
    /// What is attached to uplinks.
    pub modes: Modes,
    /// Which programs few nodes need.
    pub needs: Needs,
    /// A device of the node.
    pub ifindex: u32,
    /// What else.
    pub terms: Terms,
}

/// A growth that an earlier agent began and did not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The phase whose programs some device may have; none has those of a later one.
    pub phase: Phase,
    /// Whose table grows.
    pub family: Family,
    /// Positions of the table that it grows into.
    pub size: u32,
}

/// Programs of one phase, loaded and attached to nothing.
#[derive(Debug)]
pub struct Stage {
    /// Those for devices.
    pub programs: Programs,
    /// What tells of packets.
    pub tracer: Tracer,
    /// What carries flows over; only while new flows go into the larger table and both are known.
    pub carrier: Option<Carrier>,
    /// What they were loaded with.
    pub node: NodeConfig,
}

/// Why the flow table does not grow.
#[derive(Debug, thiserror::Error)]
pub enum GrowthError {
    /// The directory of its pins.
    #[error("cannot use the pin directory {path}")]
    Pins {
        /// The directory or pin.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The program that carries flows over.
    #[error("cannot load the program {CARRY:?}")]
    Load(#[source] ProgramError),
    /// The program cannot be kept.
    #[error("cannot pin the program {CARRY:?}")]
    PinProgram(#[from] PinError),
    /// The program cannot be run.
    #[error("cannot run the program {CARRY:?}")]
    Run(#[source] ProgramError),
}

impl Origin {
    /// Flow positions of a family.
    pub fn flow_table_size(&self, family: Family) -> u32 {
        1 + match family {
            Family::V4 => self.node.flow_mask4,
            Family::V6 => self.node.flow_mask6,
        }
    }

    /// Whether a family's table has the former layout.
    pub fn is_former(&self, family: Family) -> bool {
        self.node.features & features::former(family) != 0
    }

    /// Loads the programs of a phase on the way to a table of `size` positions. The first phase makes it.
    pub fn load(&self, phase: Phase, family: Family, size: u32) -> Result<Stage, LoaderError> {
        let node = self.facts(phase, family, size);
        let growing = pin::growing(&self.maps);
        fs::create_dir_all(&growing).map_err(|source| GrowthError::Pins {
            path: growing.clone(),
            source,
        })?;
        let pins = self.pins(phase, family, &growing);
        let mut ebpf = loaded(node, &self.terms, &pins)?;
        let carrier = match phase {
            Phase::Diverted => Some(Carrier::of(&mut ebpf, &growing.join(CARRY), family)?),
            _ => None,
        };
        let stage = self.stage(ebpf, node, &growing)?;
        Ok(Stage { carrier, ..stage })
    }

    /// Loads the programs of a table that does not grow, on maps that are made if they are not there.
    pub(super) fn load_plain(&self) -> Result<Stage, LoaderError> {
        let pins: Vec<_> = map::ALL
            .into_iter()
            .map(|map| (map, self.pin(map)))
            .collect();
        let ebpf = loaded(self.node, &self.terms, &pins)?;
        self.verified(ebpf, self.node, &self.tracer)
    }

    /// The programs of an object that is ready for the verifier, to take the place of others. `beside`: where the program `trace`
    /// is pinned until it has.
    pub(super) fn stage(
        &self,
        ebpf: Ebpf,
        node: NodeConfig,
        beside: &Path,
    ) -> Result<Stage, LoaderError> {
        let next = beside.join("trace");
        let stage = self.verified(ebpf, node, &next)?;
        rename(&next, &self.tracer)?;
        Ok(stage)
    }

    /// The programs of an object, once the verifier has seen them; `trace` is pinned at `pin`.
    fn verified(&self, mut ebpf: Ebpf, node: NodeConfig, pin: &Path) -> Result<Stage, LoaderError> {
        let mut names = Programs::usual(&self.modes, &self.needs);
        names.push(tracer::PROGRAM);
        verifier::load_all(&mut ebpf, &names)?;
        Ok(Stage {
            tracer: Tracer::pinned(&mut ebpf, pin, self.ifindex)?,
            programs: Programs::of(ebpf, self.modes.clone(), self.needs.clone()),
            carrier: None,
            node,
        })
    }

    /// Notes that devices get the programs of a phase from now on; whoever follows this agent must go on from there.
    pub fn enter(&self, node: &NodeConfig) -> Result<(), LoaderError> {
        Ok(facts::replace(node, &marker(&self.maps))?)
    }

    /// Gives the larger table's pin the usual name: from now on it is the flow table, of the programs that were loaded
    /// with `node`.
    pub fn finish(&mut self, node: NodeConfig) -> Result<(), LoaderError> {
        let growing = pin::growing(&self.maps);
        for name in [map::FLOWS4, map::FLOWS6] {
            let pin = growing.join(name);
            // Done already, if what comes after was refused.
            if pin.exists() {
                rename(&pin, &self.maps.join(name))?;
            }
        }
        self.forget_former(&node)?;
        facts::replace(&node, &pin::facts(&self.maps))?;
        self.node = node;
        self.abandon();
        Ok(())
    }

    /// Removes the tables of the former layout whose place others have taken.
    fn forget_former(&self, node: &NodeConfig) -> Result<(), GrowthError> {
        let dir = pin::former(&self.maps);
        for family in [Family::V4, Family::V6] {
            if node.features & features::former(family) == 0 {
                let path = dir.join(flow_table(family));
                let removed = pin::gone(fs::remove_file(&path));
                removed.map_err(|source| GrowthError::Pins { path, source })?;
            }
        }
        // Refused while the other family's is there, which is as it should be.
        let _ = fs::remove_dir(dir);
        Ok(())
    }

    /// Removes what is left of a growth that came to an end, this or that way.
    pub fn abandon(&self) {
        pin::abandon(&pin::growing(&self.maps));
    }

    fn facts(&self, phase: Phase, family: Family, size: u32) -> NodeConfig {
        let (old, new) = (self.flow_table_size(family) - 1, size - 1);
        let features = self.node.features;
        // Of the larger table, whose layout is this release's.
        let own = features & !features::former(family);
        let other_is_former = if own == features {
            0
        } else {
            features::FORMER_OTHER
        };
        let (flows, other, features) = match phase {
            Phase::Announced => (old, new, features | features::SETTLING),
            Phase::Diverted => (new, old, own | other_is_former | features::SETTLING),
            Phase::Grown => (new, 0, own),
        };
        let node = NodeConfig {
            features,
            ..self.node
        };
        match family {
            Family::V4 => NodeConfig {
                flow_mask4: flows,
                other_mask4: other,
                ..node
            },
            Family::V6 => NodeConfig {
                flow_mask6: flows,
                other_mask6: other,
                ..node
            },
        }
    }

    /// Where a map is pinned that is in use.
    pub(super) fn pin(&self, name: &str) -> PathBuf {
        let mut families = [Family::V4, Family::V6].into_iter();
        if families.any(|family| name == flow_table(family) && self.is_former(family)) {
            pin::former(&self.maps).join(name)
        } else {
            self.maps.join(name)
        }
    }

    /// Where each map of the object is pinned.
    fn pins(&self, phase: Phase, family: Family, growing: &Path) -> Vec<(&'static str, PathBuf)> {
        let (name, other) = match family {
            Family::V4 => (map::FLOWS4, map::FLOWS4_OTHER),
            Family::V6 => (map::FLOWS6, map::FLOWS6_OTHER),
        };
        let mut pins: Vec<_> = map::ALL
            .into_iter()
            .filter(|map| *map != name)
            .map(|map| (map, self.pin(map)))
            .collect();
        let (old, new) = (self.pin(name), growing.join(name));
        match phase {
            Phase::Announced => pins.extend([(name, old), (other, new)]),
            Phase::Diverted => pins.extend([(name, new), (other, old)]),
            Phase::Grown => pins.push((name, new)),
        }
        pins
    }
}

/// The object on these maps.
pub(super) fn loaded(
    node: NodeConfig,
    terms: &Terms,
    pins: &[(&'static str, PathBuf)],
) -> Result<Ebpf, LoaderError> {
    #[cfg_attr(
        not(feature = "bpf-log"),
        expect(unused_mut, reason = "the log takes its map out")
    )]
    let mut ebpf = object::load_on(node, terms, pins)?;
    #[cfg(feature = "bpf-log")]
    super::bpf_log::forward(&mut ebpf);
    Ok(ebpf)
}

/// Where the facts are pinned of the programs of the latest phase.
fn marker(maps: &Path) -> PathBuf {
    pin::growing(maps).join("node")
}

/// What an earlier agent began, if its flow tables are taken over; what it had not got any device to use is removed.
pub(super) fn begun(maps: &Path, inherited: &Inheritance) -> Option<Begun> {
    let begun = find_begun(maps, inherited);
    if begun.is_none() {
        pin::abandon(&pin::growing(maps));
    }
    begun
}

fn find_begun(maps: &Path, inherited: &Inheritance) -> Option<Begun> {
    let node = facts::read_at(&marker(maps)).ok()?;
    phase_of(&node, |family| {
        let size = table_to_grow_into(maps, family)?;
        Some((inherited.flow_table_size(family)?, size))
    })
}

/// How far it has come by the facts of its latest programs. `sizes`: of a family's table, and of the one that it grows into
/// if it does.
fn phase_of(node: &NodeConfig, sizes: impl Fn(Family) -> Option<(u32, u32)>) -> Option<Begun> {
    let of_family = [
        (Family::V4, node.flow_mask4, node.other_mask4),
        (Family::V6, node.flow_mask6, node.other_mask6),
    ];
    of_family.into_iter().find_map(|(family, flows, other)| {
        let (old, size) = sizes(family)?;
        // A table that takes another layout may keep its size.
        let is_new = node.features & features::former(family) == 0;
        let phase = match (flows + 1, other) {
            (flows, 0) if flows == size => Phase::Grown,
            (flows, other) if flows == size && other + 1 == old && is_new => Phase::Diverted,
            (flows, other) if flows == old && other + 1 == size => Phase::Announced,
            _ => return None,
        };
        Some(Begun {
            phase,
            family,
            size,
        })
    })
}

/// What an agent of the release before has begun whose maps are in a directory, and the facts of the latest phase.
pub(super) fn begun_in_former_layout(maps: &Path) -> Option<(Begun, NodeConfig)> {
    let node = facts::read_at(&marker(maps)).ok()?;
    let size_of = |path: PathBuf| match form::found(&path) {
        Ok(Found::Map(form)) => Some(form.max_entries),
        _ => None,
    };
    let begun = phase_of(&node, |family| {
        let name = flow_table(family);
        let size = size_of(pin::growing(maps).join(name))?;
        Some((size_of(maps.join(name))?, size))
    })?;
    Some((begun, node))
}

/// Positions of the table that a family's is growing into.
fn table_to_grow_into(maps: &Path, family: Family) -> Option<u32> {
    let name = flow_table(family);
    let wanted = form::wanted().ok()?.get(name).copied()?;
    let Ok(Found::Map(found)) = form::found(&pin::growing(maps).join(name)) else {
        return None;
    };
    let size = found.max_entries;
    let is_alike = found
        == form::Form {
            max_entries: size,
            ..wanted
        };
    (is_alike && FlowTableSizes::is_fit(size)).then_some(size)
}

/// The name of a family's flow table.
pub(super) fn flow_table(family: Family) -> &'static str {
    match family {
        Family::V4 => map::FLOWS4,
        Family::V6 => map::FLOWS6,
    }
}

/// Gives a pin another name, in the place of what has it.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), GrowthError> {
    fs::rename(from, to).map_err(|source| GrowthError::Pins {
        path: from.to_owned(),
        source,
    })
}

/// The program that carries flows over.
#[derive(Debug)]
pub struct Carrier {
    program: SchedClassifier,
    family: u32,
}

/// What a pass over the table in use came to, in flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// That were copied.
    pub moved: u32,
    /// That were in the larger table already.
    pub merged: u32,
    /// That could not be copied.
    pub kept: u32,
}

impl Carrier {
    /// Takes the program out of an object, by way of a pin at `path`.
    fn of(ebpf: &mut Ebpf, path: &Path, family: Family) -> Result<Self, LoaderError> {
        let program: &mut SchedClassifier = ebpf
            .program_mut(CARRY)
            .ok_or(LoaderError::NoProgram(CARRY))?
            .try_into()
            .map_err(GrowthError::Load)?;
        program.load().map_err(GrowthError::Load)?;
        program.pin(path).map_err(GrowthError::PinProgram)?;
        let program = SchedClassifier::from_pin(path).map_err(GrowthError::Load)?;
        let family = match family {
            Family::V4 => FAMILY4,
            Family::V6 => FAMILY6,
        };
        Ok(Self { program, family })
    }

    /// One pass over the table of `size` positions.
    pub fn pass(&self, size: u32) -> Result<Pass, GrowthError> {
        let mut pass = Pass::default();
        for first in (0..size).step_by(RUNS_PER_CALL as usize) {
            let runs = (size - first).min(RUNS_PER_CALL);
            let told = self.run(first, runs)?;
            pass.moved += told[CB + cell::MOVED];
            pass.merged += told[CB + cell::MERGED];
            pass.kept += told[CB + cell::KEPT];
        }
        Ok(pass)
    }

    /// Asks for `runs` positions from `first` on; returns the context.
    fn run(&self, first: u32, runs: u32) -> Result<[u32; CONTEXT_WORDS], GrowthError> {
        let mut context = [0_u32; CONTEXT_WORDS];
        context[MARK] = self.family;
        context[CB + cell::POSITION] = first;
        let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut told = [0; CONTEXT_ROOM];
        let mut frame = FRAME;
        self.program
            .test_run(TestRunOptions {
                data_in: Some(&FRAME),
                data_out: Some(&mut frame),
                ctx_in: Some(&context),
                ctx_out: Some(&mut told),
                repeat: runs,
                ..TestRunOptions::default()
            })
            .map_err(GrowthError::Run)?;
        let mut words = [0; CONTEXT_WORDS];
        for (word, bytes) in words.iter_mut().zip(told.as_chunks().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::select::MAGLEV_KEY;

    use super::*;
    use crate::plan::Capacity;

    fn origin() -> Origin {
        Origin {
            node: NodeConfig {
                hash_key: [7; 12],
                flow_mask4: 63,
                flow_mask6: 63,
                features: features::ECHO,
                ..NodeConfig::DEFAULT
            },
            maps: PathBuf::from("/pins/maps"),
            tracer: PathBuf::from("/pins/trace"),
            modes: Modes::TC,
            needs: Needs::default(),
            ifindex: 1,
            terms: Terms {
                affinity_size: 64,
                maglev_key: MAGLEV_KEY,
                netns: 0,
                tables: Capacity::default(),
            },
        }
    }

    #[test]
    fn each_phase_knows_its_tables_and_nothing_else_differs() {
        let origin = origin();
        for (phase, masks, is_settling) in [
            (Phase::Announced, (63, 255), true),
            (Phase::Diverted, (255, 63), true),
            (Phase::Grown, (255, 0), false),
        ] {
            for family in [Family::V4, Family::V6] {
                let facts = origin.facts(phase, family, 256);
                let found4 = (facts.flow_mask4, facts.other_mask4);
                let found6 = (facts.flow_mask6, facts.other_mask6);
                let expected = match family {
                    Family::V4 => (masks, (63, 0)),
                    Family::V6 => ((63, 0), masks),
                };
                assert_eq!((found4, found6), expected, "{phase:?}");
                assert_eq!(facts.features & features::SETTLING != 0, is_settling);
                assert_eq!(facts.features & features::ECHO, features::ECHO);
                assert_eq!(facts.hash_key, origin.node.hash_key);
            }
        }
    }

    #[test]
    fn a_phase_is_known_again_by_its_facts_also_where_only_the_layout_changes() {
        for former in [0, features::FORMER4, features::FORMER6] {
            for (family, size) in [(Family::V4, 256), (Family::V6, 256), (Family::V4, 64)] {
                let mut origin = origin();
                origin.node.features |= former;
                if size == 64 && !origin.is_former(family) {
                    continue;
                }
                for phase in [Phase::Announced, Phase::Diverted, Phase::Grown] {
                    let facts = origin.facts(phase, family, size);
                    let sizes = |asked| (asked == family).then_some((64, size));
                    let begun = Begun {
                        phase,
                        family,
                        size,
                    };
                    assert_eq!(phase_of(&facts, sizes), Some(begun), "{former:#x}");
                }
            }
        }
    }

    #[test]
    fn a_table_of_the_former_layout_is_the_other_one_until_it_is_gone() {
        let mut origin = origin();
        origin.node.features |= features::FORMER4 | features::FORMER6;
        let bits = features::FORMER4 | features::FORMER6 | features::FORMER_OTHER;
        for (phase, expected) in [
            (Phase::Announced, features::FORMER4 | features::FORMER6),
            (Phase::Diverted, features::FORMER6 | features::FORMER_OTHER),
            (Phase::Grown, features::FORMER6),
        ] {
            let facts = origin.facts(phase, Family::V4, 64);
            assert_eq!(facts.features & bits, expected, "{phase:?}");
        }
        let pins = origin.pins(Phase::Diverted, Family::V4, Path::new("/pins/growing"));
        let pins: std::collections::BTreeMap<_, _> = pins.into_iter().collect();
        assert_eq!(pins[map::FLOWS4], Path::new("/pins/growing/flows4"));
        assert_eq!(pins[map::FLOWS4_OTHER], Path::new("/pins/former/flows4"));
        assert_eq!(pins[map::FLOWS6], Path::new("/pins/former/flows6"));
    }

    #[test]
    fn each_map_is_shared_and_only_the_growing_table_changes_places() {
        let origin = origin();
        for (phase, first, other) in [
            (Phase::Announced, "maps", Some("growing")),
            (Phase::Diverted, "growing", Some("maps")),
            (Phase::Grown, "growing", None),
        ] {
            let pins = origin.pins(phase, Family::V4, Path::new("/pins/growing"));
            let pins: std::collections::BTreeMap<_, _> = pins.into_iter().collect();
            let pin = |dir: &str| PathBuf::from(format!("/pins/{dir}/flows4"));
            assert_eq!(pins[map::FLOWS4], pin(first));
            assert_eq!(pins.get(map::FLOWS4_OTHER), other.map(pin).as_ref());
            for name in map::ALL {
                let expected = origin.maps.join(name);
                assert!(name == map::FLOWS4 || pins[name] == expected, "{name}");
            }
        }
    }
}
