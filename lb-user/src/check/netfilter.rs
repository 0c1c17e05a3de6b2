//! Rules that forwarded packets pass, and which of them do anything.
//!
//! Pure. What reads them, from the kernel or from the text of a tool, is [`super::nftables`] and
//! [`super::legacy`]. A rule that only looks, counts, logs, accepts or returns loses nothing when packets do
//! not pass it; every other one is named.

use std::collections::{BTreeMap, BTreeSet};

/// All chains and what their rules do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// By their names.
    pub chains: BTreeMap<ChainName, Chain>,
}

/// Where a chain is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    /// `ip`, `ip6`, `inet`, `bridge` ..., as `nft` spells it.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
}

/// One chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Whether forwarded packets begin here.
    pub is_forward: bool,
    /// Whether what no rule accepts is dropped.
    pub drops: bool,
    /// What its rules do, apart from what loses nothing.
    pub effects: Vec<Effect>,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Something to packets: drops, rejects, queues, changes.
    Acts(String),
    /// Goes on in another chain of the table.
    Jumps(String),
}

/// A chain that packets of services no longer pass, and what is lost by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The chain where forwarded packets begin.
    pub name: ChainName,
    /// Whether its policy drops.
    pub drops: bool,
    /// What its rules do, each once.
    pub acts: BTreeSet<String>,
    /// The chains that can be reached from it.
    pub reached: BTreeSet<String>,
}

impl Ruleset {
    /// What another source says as well.
    pub fn merge(&mut self, other: Self) {
        self.chains.extend(other.chains);
    }

    /// The chain of this name, made if need be.
    pub fn chain(&mut self, name: ChainName) -> &mut Chain {
        self.chains.entry(name).or_default()
    }

    /// The chains of the forward hook that do anything.
    pub fn lost(&self) -> Vec<Lost> {
        let begins = self.chains.iter().filter(|(_, chain)| chain.is_forward);
        let lost = begins.map(|(name, chain)| self.reach(name, chain.drops));
        lost.filter(|lost| lost.drops || !lost.acts.is_empty())
            .collect()
    }

    fn reach(&self, begin: &ChainName, drops: bool) -> Lost {
        let mut lost = Lost {
            name: begin.clone(),
            drops,
            acts: BTreeSet::new(),
            reached: BTreeSet::new(),
        };
        let mut waiting = vec![begin.chain.clone()];
        while let Some(chain) = waiting.pop() {
            // Chains may refer to each other in a circle only where the kernel's check was fooled; no harm here.
            if !lost.reached.insert(chain.clone()) {
                continue;
            }
            let name = ChainName {
                chain,
                ..begin.clone()
            };
            for effect in self.chains.get(&name).iter().flat_map(|it| &it.effects) {
                match effect {
                    Effect::Acts(what) => {
                        lost.acts.insert(what.clone());
                    }
                    Effect::Jumps(to) => waiting.push(to.clone()),
                }
            }
        }
        lost
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub(in crate::check) fn name(family: &str, table: &str, chain: &str) -> ChainName {
        ChainName {
            family: family.to_owned(),
            table: table.to_owned(),
            chain: chain.to_owned(),
        }
    }

    /// A chain of table `ip filter`; effects begin with `>` where they jump.
    pub(in crate::check) fn put(rules: &mut Ruleset, chain: &str, drops: bool, effects: &[&str]) {
        let effects = effects.iter().map(|text| match text.strip_prefix('>') {
            Some(to) => Effect::Jumps(to.to_owned()),
            None => Effect::Acts((*text).to_owned()),
        });
        *rules.chain(name("ip", "filter", chain)) = Chain {
            is_forward: chain == "FORWARD",
            drops,
            effects: effects.collect(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::put, *};

    #[test]
    fn a_chain_that_only_accepts_loses_nothing() {
        let mut rules = Ruleset::default();
        put(&mut rules, "FORWARD", false, &[">KUBE-FORWARD"]);
        put(&mut rules, "KUBE-FORWARD", false, &[]);
        put(&mut rules, "INPUT", true, &["drop"]);
        assert_eq!(rules.lost(), []);
    }

    #[test]
    fn what_is_done_anywhere_behind_the_hook_is_lost() {
        let mut rules = Ruleset::default();
        put(&mut rules, "FORWARD", false, &[">a", ">missing"]);
        put(&mut rules, "a", false, &[">b", "reject"]);
        put(&mut rules, "b", false, &[">a", "drop"]);
        put(&mut rules, "unreached", false, &["queue"]);
        let lost = rules.lost();
        assert_eq!(lost.len(), 1);
        assert_eq!(
            lost[0].acts,
            ["drop".to_owned(), "reject".to_owned()].into()
        );
        assert!(!lost[0].reached.contains("unreached"));
    }

    #[test]
    fn a_policy_that_drops_is_lost_though_there_are_no_rules() {
        let mut rules = Ruleset::default();
        put(&mut rules, "FORWARD", true, &[]);
        assert!(rules.lost()[0].drops);
    }
}
