//! Devices as they come and go: whatever plays a part has our programs, nothing else has.
//!
//! Level-triggered: an event only says that it is time to look. What is there then is compared with
//! what is attached, so that lost events and renames need no case of their own. The routes that lead to our own
//! devices are followed in the same way.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future, mem,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{
    growth::Swap,
    node::{Demand, Node, Own},
};
use crate::{
    causes::with_causes,
    config::reload::Live,
    loader::{
        Datapath,
        attach::{Attachment, Programs},
        device::{Device, Role, Selection},
        netlink::{Netlink, NetlinkError},
        pair::HostPair,
    },
};

/// Pause after a look: bounds the work that a burst of events causes.
const PAUSE: Duration = Duration::from_millis(20);
/// The pause is at least so many times as long as the look was: where there are many routes that change
/// all the time, looking takes no more than a tenth of a CPU.
const PAUSE_FACTOR: u32 = 10;
/// Pause after something failed that may work later.
const RETRY: Duration = Duration::from_secs(1);

/// A device that the datapath serves, as `fulcrum status` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceView {
    /// The device's name.
    pub name: String,
    /// The part that it plays.
    pub role: Role,
    /// The hooks in use; absent if nothing could be attached.
    pub hooks: Option<&'static str>,
    /// Why nothing could be attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The devices that the programs are on, and the routes that lead to our own.
#[derive(Debug)]
pub struct Devices {
    // Goes first, and its routes with it: nobody is led to programs that are no more.
    pair: HostPair,
    // Detached before the datapath, which is below, goes.
    attached: BTreeMap<u32, Attached>,
    node: Node,
    netlink: Netlink,
    datapath: Datapath,
    channels: Channels,
    is_incomplete: bool,
}

/// Whom the devices tell, and who tells them.
#[derive(Debug)]
pub struct Channels {
    /// The devices, for those who ask.
    pub views: watch::Sender<Vec<DeviceView>>,
    /// The node's own addresses, for the tables.
    pub addresses: watch::Sender<Own>,
    /// What the services need.
    pub demand: watch::Receiver<Demand>,
    /// Programs that take the place of others.
    pub swaps: mpsc::Receiver<Swap>,
    /// Which devices the configuration names.
    pub live: watch::Receiver<Live>,
}

/// A device that plays a part.
#[derive(Debug)]
struct Attached {
    device: Device,
    role: Role,
    /// What keeps the programs on it, or why there are none.
    attachment: Result<Attachment, String>,
}

impl Devices {
    /// Nothing is attached yet.
    pub fn new(
        netlink: Netlink,
        datapath: Datapath,
        pair: HostPair,
        mut node: Node,
        channels: Channels,
    ) -> Self {
        node.selection.host = Some(pair.far());
        Self {
            pair,
            attached: BTreeMap::new(),
            node,
            netlink,
            datapath,
            channels,
            is_incomplete: false,
        }
    }

    /// Attaches and detaches what changed since the last look, and lets the node's processes reach what they
    /// shall; returns how many devices are served.
    ///
    /// A device that fails is told once and tried again at each look.
    pub async fn look(&mut self) -> Result<usize, NetlinkError> {
        let demand = self.channels.demand.borrow_and_update().clone();
        let survey = self.netlink.survey().await?;
        self.node.select(&self.channels.live.borrow_and_update());
        self.node.follow(&survey, &demand.pod_cidrs);
        let n_served = self.attach_all(survey.devices.clone());
        // Only now: whoever is led to our devices is met there by the programs.
        let has_ipv6 = self.pair.has_ipv6();
        let wanted = self.node.routes(&survey, &demand, has_ipv6);
        self.is_incomplete = self.pair.lead(&wanted, &survey);
        super::replace(&self.channels.addresses, self.node.own(&survey));
        Ok(n_served)
    }

    fn attach_all(&mut self, devices: Vec<Device>) -> usize {
        let wanted = parts(devices, &self.node.selection);
        self.attached.retain(|index, attached| {
            let stays = wanted
                .get(index)
                .is_some_and(|(device, role)| attached.is(device, *role));
            if !stays {
                tracing::info!(
                    device = attached.device.name,
                    role = attached.role.name(),
                    "device left"
                );
            }
            stays
        });
        for (index, (device, role)) in wanted {
            match self.attached.get_mut(&index) {
                Some(attached) if attached.attachment.is_ok() => attached.device = device,
                _ => self.attach(device, role),
            }
        }
        let views: Vec<DeviceView> = self.attached.values().map(Attached::view).collect();
        let n_served = views.iter().filter(|view| view.error.is_none()).count();
        self.channels.views.send_replace(views);
        n_served
    }

    /// Looks whenever something changed, for ever.
    pub async fn follow(&mut self) -> Infallible {
        loop {
            if self.is_incomplete {
                // Looks again when the time is up.
                let _ = time::timeout(RETRY, self.changed()).await;
            } else {
                self.changed().await;
            }
            let start = Instant::now();
            while let Err(error) = self.look().await {
                tracing::warn!(
                    error = with_causes(&error),
                    "devices cannot be followed for now"
                );
                time::sleep(RETRY).await;
            }
            time::sleep(PAUSE.max(start.elapsed() * PAUSE_FACTOR)).await;
        }
    }

    async fn changed(&mut self) {
        let swap = tokio::select! {
            () = self.netlink.changed() => None,
            Ok(()) = self.channels.live.changed() => None,
            swap = self.channels.swaps.recv() => match swap {
                Some(swap) => Some(swap),
                // Nobody will swap anything any more.
                None => future::pending().await,
            },
            changed = self.channels.demand.changed() => if changed.is_err() {
                // Nobody will ask for anything else.
                self.netlink.changed().await;
                None
            } else {
                None
            },
        };
        if let Some(Swap { programs, done }) = swap {
            self.swap(programs);
            // Refused when nobody waits for it.
            let _ = done.send(());
        }
    }

    /// Puts other programs in the place of those on the devices, one by one; what comes later gets them too.
    ///
    /// Where that is refused they are attached anew: a device never keeps the earlier ones.
    fn swap(&mut self, programs: Programs) {
        self.datapath.switch(programs);
        for attached in self.attached.values_mut() {
            let earlier = mem::replace(&mut attached.attachment, Err(String::new()));
            let Ok(earlier) = earlier else {
                attached.attachment = earlier;
                continue;
            };
            let device = &attached.device;
            let taken = self.datapath.take_over(earlier).or_else(|error| {
                let (device, error) = (&device.name, with_causes(&error));
                tracing::error!(device, error, "programs not swapped, attaching them anew");
                self.datapath.attach(&attached.device, attached.role)
            });
            attached.attachment = taken.map_err(|error| with_causes(&error));
        }
    }

    fn attach(&mut self, device: Device, role: Role) {
        let attachment = self
            .datapath
            .attach(&device, role)
            .map_err(|error| with_causes(&error));
        let earlier = self
            .attached
            .get(&device.index)
            .map(|attached| &attached.attachment);
        let (name, role_name) = (&device.name, role.name());
        match (&attachment, earlier) {
            (Ok(attachment), _) => {
                let hooks = attachment.hooks();
                tracing::info!(device = name, role = role_name, hooks, "device attached");
            }
            (Err(error), Some(Err(earlier))) if error == earlier => {}
            (Err(error), _) => {
                tracing::warn!(
                    device = name,
                    role = role_name,
                    error,
                    "device not attached"
                );
            }
        }
        self.attached.insert(
            device.index,
            Attached {
                device,
                role,
                attachment,
            },
        );
    }
}

impl Attached {
    /// Whether this is the same device in the same part; the name does not matter.
    fn is(&self, device: &Device, role: Role) -> bool {
        self.role == role && self.device.layer == device.layer
    }

    fn view(&self) -> DeviceView {
        DeviceView {
            name: self.device.name.clone(),
            role: self.role,
            hooks: self.attachment.as_ref().ok().map(Attachment::hooks),
            error: self.attachment.as_ref().err().cloned(),
        }
    }
}

/// The devices that play a part, by index.
fn parts(devices: Vec<Device>, selection: &Selection) -> BTreeMap<u32, (Device, Role)> {
    devices
        .into_iter()
        .filter_map(|device| {
            let role = selection.role(&device)?;
            Some((device.index, (device, role)))
        })
        .collect()
}
