//! Whose the devices are that have the pair's names already.
//!
//! Pure. Nothing that is not ours is ever changed: the alias tells, and where an agent died before it gave
//! one, the MACs.

use super::name::{FAR_MAC, Mac, NEAR_MAC, PairName, owner};

/// What the kernel says about a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number.
    pub index: u32,
    /// The name.
    pub name: String,
    /// Whether it is a veth.
    pub is_veth: bool,
    /// Index of the other end, in the other end's namespace.
    pub peer: Option<u32>,
    /// Whether the other end is in another namespace.
    pub is_peer_elsewhere: bool,
    /// The hardware address.
    pub mac: Option<Mac>,
    /// What somebody noted about it.
    pub alias: Option<String>,
    /// The largest packet, L3 bytes.
    pub mtu: u32,
    /// Whether somebody has set it up.
    pub is_up: bool,
}

/// Who has the names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody.
    Free,
    /// An agent that ran in our run directory, which is ours alone now: the indexes of both ends.
    Ours {
        /// Of the node's end.
        near: u32,
        /// Of the other end.
        far: u32,
    },
    /// An agent that died before it was done.
    Unfinished {
        /// Index of the node's end.
        near: u32,
    },
    /// An agent of another run directory.
    Another {
        /// Its run directory.
        run_dir: String,
    },
    /// Somebody else.
    Stranger {
        /// The device.
        name: String,
    },
}

/// Who has the names of the pair among `links`; `run_dir` is our own.
pub fn claim(links: &[Link], pair: &PairName, run_dir: &str) -> Claim {
    let find = |name: &str| links.iter().find(|link| link.name == name);
    let (near, far) = match (find(&pair.near()), find(&pair.far())) {
        (None, None) => return Claim::Free,
        (Some(near), Some(far)) if are_ends(near, far) => (near, far),
        (Some(one), _) | (_, Some(one)) => {
            let name = one.name.clone();
            return Claim::Stranger { name };
        }
    };
    let has_our_macs = near.mac == Some(NEAR_MAC) && far.mac == Some(FAR_MAC);
    match near.alias.as_deref().map(owner) {
        Some(Some(found)) if found == run_dir => Claim::Ours {
            near: near.index,
            far: far.index,
        },
        Some(Some(found)) => Claim::Another {
            run_dir: found.to_owned(),
        },
        None if has_our_macs => Claim::Unfinished { near: near.index },
        _ => Claim::Stranger {
            name: near.name.clone(),
        },
    }
}

/// The node's ends of all pairs of agents of `run_dir`, whatever their names.
pub fn of_run_dir<'a>(links: &'a [Link], run_dir: &'a str) -> impl Iterator<Item = &'a Link> {
    let is_ours = move |near: &&Link| near.alias.as_deref().and_then(owner) == Some(run_dir);
    let has_far = |near: &&Link| {
        let mut others = links.iter();
        near.mac == Some(NEAR_MAC)
            && others.any(|far| far.mac == Some(FAR_MAC) && are_ends(near, far))
    };
    links.iter().filter(is_ours).filter(has_far)
}

/// Whether these two are one pair, both ends here.
fn are_ends(near: &Link, far: &Link) -> bool {
    let is_here = |link: &Link| link.is_veth && !link.is_peer_elsewhere;
    is_here(near) && is_here(far) && near.peer == Some(far.index) && far.peer == Some(near.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(alias: Option<&str>) -> [Link; 2] {
        let end = |index, name: &str, peer, mac| Link {
            index,
            name: name.to_owned(),
            is_veth: true,
            peer: Some(peer),
            is_peer_elsewhere: false,
            mac: Some(mac),
            alias: alias.map(str::to_owned),
            ..Link::default()
        };
        [
            end(4, "fulcrum0", 5, NEAR_MAC),
            end(5, "fulcrum1", 4, FAR_MAC),
        ]
    }

    fn claimed(links: &[Link]) -> Claim {
        claim(links, &PairName::default(), "/run/a")
    }

    fn stranger(name: &str) -> Claim {
        Claim::Stranger {
            name: name.to_owned(),
        }
    }

    #[test]
    fn an_alias_with_our_run_directory_makes_it_ours() {
        assert_eq!(claimed(&[]), Claim::Free);
        let ours = Claim::Ours { near: 4, far: 5 };
        assert_eq!(claimed(&pair(Some("fulcrum:/run/a"))), ours);
        let another = Claim::Another {
            run_dir: "/run/b".to_owned(),
        };
        assert_eq!(claimed(&pair(Some("fulcrum:/run/b"))), another);
    }

    #[test]
    fn without_an_alias_the_macs_tell() {
        assert_eq!(claimed(&pair(None)), Claim::Unfinished { near: 4 });
        let mut links = pair(None);
        links[0].mac = Some([2, 0, 0, 0, 0, 1]);
        assert_eq!(claimed(&links), stranger("fulcrum0"));
    }

    #[test]
    fn a_run_directorys_pairs_are_found_under_any_name() {
        let mut links = pair(Some("fulcrum:/run/a")).to_vec();
        links[0].name = "lb0".to_owned();
        let near = links[0].clone();
        let found = |links: &[Link], run_dir| -> Vec<Link> {
            of_run_dir(links, run_dir).cloned().collect()
        };
        assert_eq!(found(&links, "/run/a"), [near]);
        assert_eq!(found(&links, "/run/b"), []);
        for alias in [None, Some("for the lab".to_owned())] {
            links[0].alias = alias;
            assert_eq!(found(&links, "/run/a"), []);
        }
        assert_eq!(found(&pair(Some("fulcrum:/run/a"))[..1], "/run/a"), []);
    }

    #[test]
    fn what_is_no_pair_of_these_names_is_a_strangers() {
        let ours = Some("fulcrum:/run/a");
        let [near, far] = pair(ours);
        assert_eq!(claimed(&[near]), stranger("fulcrum0"));
        assert_eq!(claimed(&[far]), stranger("fulcrum1"));
        let changes: [fn(&mut [Link; 2]); 4] = [
            |links| links[0].is_veth = false,
            |links| links[1].is_peer_elsewhere = true,
            |links| links[0].peer = Some(9),
            |links| links[0].alias = Some("for the lab".to_owned()),
        ];
        for change in changes {
            let mut links = pair(ours);
            change(&mut links);
            assert_eq!(claimed(&links), stranger("fulcrum0"), "{links:?}");
        }
    }
}
