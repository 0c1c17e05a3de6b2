//! The pair as it shall be, made so at the start and whenever something else has changed it.
//!
//! What is so already is not touched, so that nobody is told of news that are none, and what had to be touched is known.

use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;

use super::{
    HostPair, MTU, PairError, claim,
    name::{FAR_MAC, Mac, NEAR_MAC},
    request,
    settings::{self, Surroundings},
};
use crate::{
    causes::with_causes,
    loader::sysctl,
    mended::{self, Thing},
};

impl HostPair {
    /// Puts back what others have changed about the pair: the devices, settings, neighbours, the address. What does not work
    /// is said once, and tried again the next time.
    pub fn mend(&mut self) {
        let trouble = self.restore(true).err().map(|error| with_causes(&error));
        self.note(trouble);
    }

    /// What could not be made or mended, and of which device.
    pub fn trouble(&self) -> Option<(String, &str)> {
        Some((self.name.near(), self.trouble.as_deref()?))
    }

    pub(super) fn note(&mut self, trouble: Option<String>) {
        match (&self.trouble, &trouble) {
            (before, Some(error)) if before != &trouble => {
                tracing::warn!(
                    error,
                    "the pair is not as it shall be; processes of this node may not reach services; tried again"
                );
            }
            (Some(_), None) => tracing::info!("the pair is as it shall be again"),
            _ => {}
        }
        self.trouble = trouble;
    }

    /// Makes the devices, settings, the address and neighbours, and the devices come up, as far as it goes; the error is the
    /// first one. `is_check`: it was so before.
    pub(super) fn restore(&mut self, is_check: bool) -> Result<(), PairError> {
        if is_check {
            self.devices()?;
        }
        // A setting that cannot be made keeps nothing else from being made.
        let settings = self.settings();
        let rest = self.rest(is_check);
        settings.and(rest)
    }

    fn rest(&mut self, is_check: bool) -> Result<(), PairError> {
        if is_check && self.trouble.is_some() {
            // Without its settings the kernel may have given the pair addresses.
            self.clear_addresses()?;
        }
        self.address(is_check)?;
        for index in [self.far, self.near] {
            self.set(index, "the state up".to_owned(), request::up(index), 0)?;
        }
        self.neighbours(is_check)
    }

    /// Makes the devices anew if they are gone, with the numbers that the programs know, and gives them the properties that they
    /// have lost.
    fn devices(&mut self) -> Result<(), PairError> {
        let mut links = self.links()?;
        let is_there = |links: &[claim::Link], index| links.iter().any(|link| link.index == index);
        if !is_there(&links, self.near) && !is_there(&links, self.far) {
            let numbers = Some((self.near, self.far));
            let made = self.channel.change(
                request::create(&self.name, MTU, numbers),
                NLM_F_CREATE | NLM_F_EXCL,
            );
            made.map_err(|source| PairError::Make {
                near: self.name.near(),
                far: self.name.far(),
                source,
            })?;
            self.mended(Thing::Device, "both devices were gone");
            links = self.links()?;
        }
        for (index, mac) in [(self.near, NEAR_MAC), (self.far, FAR_MAC)] {
            let Some(link) = links.iter().find(|link| link.index == index) else {
                continue;
            };
            let has_alias = link.alias.as_deref() == Some(&self.alias);
            if link.mac == Some(mac) && link.mtu == MTU && has_alias {
                if !link.is_up {
                    self.mended(Thing::Device, &format!("{} was down", link.name));
                }
                continue;
            }
            self.properties(index, (link.mac != Some(mac)).then_some(mac))?;
            if has_alias {
                self.mended(
                    Thing::Device,
                    &format!("{} had another MAC or MTU", link.name),
                );
            }
        }
        Ok(())
    }

    /// Gives an end its MTU and its alias, and its MAC where it has another one: setting the same one again would forget the
    /// neighbours that an earlier agent's routes lead to.
    pub(super) fn properties(&mut self, index: u32, mac: Option<Mac>) -> Result<(), PairError> {
        let message = request::properties(index, mac, MTU, &self.alias);
        self.set(index, format!("MTU {MTU}, MAC and alias"), message, 0)
    }

    pub(super) fn links(&mut self) -> Result<Vec<claim::Link>, PairError> {
        let listed = self.channel.list(request::all_links());
        let links = listed.map_err(PairError::List)?;
        Ok(links.iter().filter_map(request::link).collect())
    }

    /// Makes all settings that can be made; the error is the first of the others.
    fn settings(&self) -> Result<(), PairError> {
        let surroundings = Surroundings {
            all_rp_filter: sysctl::number("net/ipv4/conf/all/rp_filter").unwrap_or(0),
            has_ipv6: self.has_ipv6,
        };
        let mut result = Ok(());
        for setting in settings::settings(&self.name, surroundings) {
            match setting.make() {
                Ok(was_changed) if was_changed && self.is_kept => {
                    mended::count(Thing::Setting);
                    tracing::warn!(%setting, "something had changed a setting of the pair; put back");
                }
                Ok(_) => {}
                Err(error) => result = result.and(Err(error.into())),
            }
        }
        result
    }

    /// Gives the node's end its address, unless it has it: then nobody is told of news that are none.
    fn address(&mut self, is_check: bool) -> Result<(), PairError> {
        let own = self.hairpin.near_address();
        let message = request::address(self.near, own);
        let result = self.channel.change(message, NLM_F_CREATE | NLM_F_EXCL);
        match result {
            Ok(()) => {
                if is_check {
                    self.mended(Thing::Address, &own.to_string());
                }
                Ok(())
            }
            Err(source) if source.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            Err(source) => Err(PairError::Set {
                what: format!("the address {own}"),
                device: self.name.near(),
                source,
            }),
        }
    }

    fn neighbours(&mut self, is_check: bool) -> Result<(), PairError> {
        let listed = self.channel.list(request::neighbours_of(self.near));
        let there = listed.map_err(PairError::List)?;
        for any in self.families() {
            let gateway = self.hairpin.gateway(any);
            let message = request::neighbour(self.near, gateway, FAR_MAC);
            if there
                .iter()
                .any(|found| request::is_same_neighbour(&message, found))
            {
                continue;
            }
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            let what = format!("the neighbour {gateway}");
            self.set(self.near, what, message, flags)?;
            if is_check {
                self.mended(Thing::Neighbour, &gateway.to_string());
            }
        }
        Ok(())
    }

    fn families(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v6 = self.has_ipv6.then_some(Ipv6Addr::UNSPECIFIED.into());
        [std::net::Ipv4Addr::UNSPECIFIED.into()]
            .into_iter()
            .chain(v6)
    }

    pub(super) fn mended(&self, thing: Thing, what: &str) {
        mended::count(thing);
        let (device, thing) = (self.name.near(), thing.name());
        tracing::warn!(
            device,
            thing,
            what,
            "something had changed the pair; put back"
        );
    }

    pub(super) fn set(
        &mut self,
        index: u32,
        what: String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), PairError> {
        let device = if index == self.near {
            self.name.near()
        } else {
            self.name.far()
        };
        self.channel
            .change(message, flags)
            .map_err(|source| PairError::Set {
                what,
                device,
                source,
            })
    }
}
