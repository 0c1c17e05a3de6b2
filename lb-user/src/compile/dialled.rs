//! Which addresses services are dialled at, from one snapshot to the next.
//!
//! Node ports are on the node's own addresses, which are no services'.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::desired::{DesiredPort, FrontendKind};

/// How many frontends each address has.
#[derive(Debug, Default)]
pub(super) struct Dialled(BTreeMap<IpAddr, u32>);

impl Dialled {
    /// Takes notice that a service port has become another one, and writes that into `addresses`.
    pub(super) fn replace(
        &mut self,
        was: Option<&DesiredPort>,
        is: Option<&DesiredPort>,
        addresses: &mut Arc<BTreeSet<IpAddr>>,
    ) {
        if let (Some(was), Some(is)) = (was, is)
            && was.frontends == is.frontends
        {
            return;
        }
        for addr in dialled_at(is) {
            let count = self.0.entry(addr).or_default();
            *count += 1;
            if *count == 1 {
                Arc::make_mut(addresses).insert(addr);
            }
        }
        for addr in dialled_at(was) {
            let count = self.0.entry(addr).or_default();
            *count -= 1;
            if *count == 0 {
                self.0.remove(&addr);
                Arc::make_mut(addresses).remove(&addr);
            }
        }
    }
}

fn dialled_at(port: Option<&DesiredPort>) -> impl Iterator<Item = IpAddr> {
    let frontends = port.into_iter().flat_map(|port| &port.frontends);
    let frontends = frontends.filter(|frontend| frontend.kind != FrontendKind::NodePort);
    frontends.map(|frontend| frontend.addr)
}
