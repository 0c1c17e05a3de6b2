//! Devices as they come and go: whatever plays a part has our programs, nothing else has.
//!
//! Level-triggered: an event only says that it is time to look. What is there then is compared with
//! what is attached, so that lost events and renames need no case of their own. The routes that lead to our own
//! devices are followed in the same way. What others have taken away without an event is found by a look from time to time.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future,
    pin::pin,
    sync::Arc,
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
    sockets::Sockets,
};
use crate::{
    causes::with_causes,
    config::{LocalDelivery, reload::Live},
    loader::{
        Datapath,
        attach::{Attachment, Programs},
        device::{Device, Layer, Role, Selection, inherit_from_ports},
        netlink::{Netlink, NetlinkError},
        pair::HostPair,
        peers::Obstacle,
        uplink::Survey,
    },
};

/// Pause after a look: bounds the work that a burst of events causes.
const PAUSE: Duration = Duration::from_millis(20);
/// The pause is at least so many times as long as the look was: where there are many routes that change
/// all the time, looking takes no more than a tenth of a CPU.
const PAUSE_FACTOR: u32 = 10;
/// Time between two looks at what has not changed as far as anybody has said.
const CHECK: Duration = Duration::from_secs(2);
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
    /// Why native XDP is not among them, unless it was told not to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_xdp: Option<String>,
    #[serde(flatten)]
    /// How packets get to the pod behind it, if it is a pod's.
    pub delivery: DeliveryView,
    /// Why nothing could be attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How packets get to the pod behind a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeliveryView {
    /// `peer`: past this end of the device; `device`: by it. Absent if it is no pod's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<&'static str>,
    /// Why not past it, unless it was told not to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_peer: Option<String>,
}

/// The devices that the programs are on, and the routes that lead to our own.
#[derive(Debug)]
pub struct Devices {
    pair: HostPair,
    attached: BTreeMap<u32, Attached>,
    sockets: Sockets,
    node: Node,
    netlink: Arc<Netlink>,
    datapath: Datapath,
    channels: Channels,
    is_incomplete: bool,
    /// Whether something has changed since the last look.
    is_due: bool,
    /// When devices that play a part, but have no programs yet, were first heard of.
    appeared: BTreeMap<u32, Instant>,
    /// Whether what earlier agents left on devices is gone, as far as it shall not stay.
    is_swept: bool,
    /// Why XDP may not send by other devices than packets come by, as it was said.
    trouble: Option<String>,
    /// How pods get packets, as configured.
    local_delivery: LocalDelivery,
    /// Why packets may not go past devices that have no obstacle, as it was said.
    peer_trouble: Option<String>,
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
    /// Why packets to the pod behind it do not go past it.
    obstacle: Option<Obstacle>,
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
            sockets: Sockets::default(),
            node,
            netlink: Arc::new(netlink),
            datapath,
            channels,
            is_incomplete: false,
            is_due: false,
            appeared: BTreeMap::new(),
            is_swept: false,
            trouble: None,
            local_delivery: LocalDelivery::default(),
            peer_trouble: None,
        }
    }

    /// The same, with programs for these sockets too.
    #[must_use]
    pub fn with(mut self, sockets: Sockets) -> Self {
        self.sockets = sockets;
        self
    }

    /// Attaches and detaches what changed since the last look, and lets the node's processes reach what they
    /// shall; returns how many devices are served.
    ///
    /// A device that fails is told once and tried again at each look.
    pub async fn look(&mut self) -> Result<usize, NetlinkError> {
        // Nobody waited for the programs while there were none.
        drop(self.netlink.heard());
        self.look_again(false).await
    }

    async fn look_again(&mut self, is_check: bool) -> Result<usize, NetlinkError> {
        if is_check {
            self.pair.mend();
        }
        let demand = self.channels.demand.borrow_and_update().clone();
        let survey = self.survey().await?;
        let live = self.channels.live.borrow_and_update().clone();
        self.node.select(&live);
        self.local_delivery = live.local_delivery;
        self.node.follow(&survey, &demand.pod_cidrs);
        let n_served = self.attach_all(survey.devices.clone(), is_check);
        // Only now: whoever is led to our devices is met there by the programs.
        let has_ipv6 = self.pair.has_ipv6();
        let wanted = self.node.routes(&survey, &demand, has_ipv6);
        self.is_incomplete = self.pair.lead(&wanted, &survey);
        super::replace(&self.channels.addresses, self.node.own(&survey));
        Ok(n_served)
    }

    /// Everything that there is. Where that is much it takes its time, and devices that appear meanwhile do not wait for it.
    async fn survey(&mut self) -> Result<Survey, NetlinkError> {
        let netlink = Arc::clone(&self.netlink);
        self.is_due = false;
        let mut survey = pin!(netlink.survey());
        loop {
            tokio::select! {
                survey = &mut survey => return survey,
                () = netlink.changed() => {
                    self.is_due = true;
                    self.greet();
                }
            }
        }
    }

    /// Puts the programs on devices that have just appeared; the next look sees to all else that events mean.
    fn greet(&mut self) {
        let mut is_news = false;
        for (index, heard) in self.netlink.heard().devices {
            let Some((device, since)) = heard else {
                self.appeared.remove(&index);
                continue;
            };
            let is_new = !self.attached.contains_key(&index);
            if let Some(role) = self.node.selection.role(&device).filter(|_| is_new) {
                self.appeared.entry(index).or_insert(since);
                self.attach(device, role);
                is_news = true;
            }
        }
        if is_news {
            self.show();
        }
    }

    /// Publishes the devices; returns how many are served.
    fn show(&self) -> usize {
        let attached = self.attached.values();
        let mut views: Vec<DeviceView> = attached
            .map(|attached| attached.view(self.local_delivery))
            .collect();
        let n_served = views.iter().filter(|view| view.error.is_none()).count();
        views.extend(self.pair.trouble().map(|(name, error)| DeviceView {
            name,
            role: Role::Host,
            hooks: None,
            no_xdp: None,
            delivery: DeliveryView::default(),
            error: Some(error.to_owned()),
        }));
        views.extend(self.sockets.view());
        super::replace(&self.channels.views, views);
        n_served
    }

    /// `is_check`: what is attached is put there once more, in case that somebody has taken it away.
    fn attach_all(&mut self, mut devices: Vec<Device>, is_check: bool) -> usize {
        inherit_from_ports(&mut devices);
        let names: Vec<String> = devices.iter().map(|device| device.name.clone()).collect();
        let wanted = parts(devices, &self.node.selection);
        let is_gone = |index: &u32, attached: &mut Attached| {
            let part = wanted.get(index);
            !part.is_some_and(|(device, role)| attached.is(device, *role))
        };
        for (_, attached) in self.attached.extract_if(.., is_gone) {
            tracing::info!(
                device = attached.device.name,
                role = attached.role.name(),
                "device left"
            );
            if let Ok(attachment) = attached.attachment {
                attachment.release();
            }
        }
        for (index, (device, role)) in wanted {
            match self.attached.get_mut(&index) {
                Some(attached) if attached.is_settled(&device) && !is_check => {
                    attached.device = device;
                }
                _ => self.attach(device, role),
            }
        }
        self.sockets.look(&mut self.datapath, is_check);
        if !self.is_swept {
            self.sweep(&names);
            self.is_swept = true;
        }
        self.appeared.clear();
        self.redirect();
        self.go_past();
        self.show()
    }

    /// Lets XDP send from one uplink to the other.
    fn redirect(&mut self) {
        let uplinks = self.attached.iter().filter(|(_, attached)| {
            attached.role == Role::Uplink && attached.device.layer == Layer::Ethernet
        });
        let uplinks = uplinks.map(|(index, _)| *index).collect();
        let trouble = self.datapath.redirect_between(&uplinks).err();
        let trouble = trouble.map(|error| with_causes(&error));
        if let Some(error) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::warn!(error, "what XDP would send by another device is left to TC");
        }
        self.trouble = trouble;
    }

    /// Lets packets to pods go past the host sides of their devices where nothing is in the way.
    fn go_past(&mut self) {
        let free = self.attached.iter().filter(|(_, attached)| {
            self.local_delivery == LocalDelivery::Auto && attached.is_free()
        });
        let free = free.map(|(index, _)| *index).collect();
        let trouble = self.datapath.go_past(&free).err();
        let trouble = trouble.map(|error| with_causes(&error));
        if let Some(error) = trouble.as_ref().filter(|_| trouble != self.peer_trouble) {
            tracing::warn!(
                error,
                "packets to some pods go by the host sides of their devices"
            );
        }
        self.peer_trouble = trouble;
    }

    /// Takes off what an earlier agent left on devices that play no part any more.
    fn sweep(&self, names: &[String]) {
        let is_served = |name: &&str| {
            let mut served = self.attached.values();
            served.any(|attached| attached.device.name == *name)
        };
        let others: Vec<&str> = names.iter().map(String::as_str).collect();
        let others: Vec<&str> = others.into_iter().filter(|name| !is_served(name)).collect();
        let attached = self.attached.values();
        let kept = attached.filter_map(|attached| attached.attachment.as_ref().ok());
        self.datapath.sweep(kept, self.sockets.programs(), &others);
    }

    /// Looks whenever something changed, and from time to time, for ever.
    pub async fn follow(&mut self) -> Infallible {
        let mut checked = Instant::now();
        loop {
            let rest = if self.is_incomplete {
                RETRY
            } else {
                CHECK.saturating_sub(checked.elapsed())
            };
            if !self.is_due {
                // Looks again when the time is up.
                let _ = time::timeout(rest, self.changed()).await;
            }
            self.greet();
            let start = Instant::now();
            let is_check = checked.elapsed() >= CHECK;
            if is_check {
                checked = start;
            }
            while let Err(error) = self.look_again(is_check).await {
                tracing::warn!(
                    error = with_causes(&error),
                    "devices cannot be followed for now"
                );
                time::sleep(RETRY).await;
            }
            self.rest(PAUSE.max(start.elapsed() * PAUSE_FACTOR)).await;
        }
    }

    /// Leaves the processor to others for a while; but whatever appears meanwhile gets its programs.
    async fn rest(&mut self, pause: Duration) {
        let end = time::Instant::now() + pause;
        while time::timeout_at(end, self.netlink.changed()).await.is_ok() {
            self.is_due = true;
            self.greet();
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

    /// Puts other programs in the place of those on the devices and in control groups, one by one; what comes later gets them too.
    fn swap(&mut self, programs: Programs) {
        self.datapath.switch(programs);
        let attached = self.attached.values();
        let served: Vec<_> = attached
            .filter(|attached| attached.attachment.is_ok())
            .map(|attached| (attached.device.clone(), attached.role))
            .collect();
        for (device, role) in served {
            self.attach(device, role);
        }
        self.sockets.look(&mut self.datapath, true);
    }

    /// Puts the programs at hand on a device, in the place of those that are there.
    fn attach(&mut self, device: Device, role: Role) {
        let earlier = self.attached.remove(&device.index);
        let known = earlier
            .as_ref()
            .and_then(|attached| attached.obstacle.clone());
        let (earlier, trouble) = match earlier.map(|attached| attached.attachment) {
            Some(Ok(attachment)) => (Some(attachment), None),
            Some(Err(trouble)) => (None, Some(trouble)),
            None => (None, None),
        };
        let is_new = earlier.is_none();
        let attachment = self
            .datapath
            .attach(&device, role, earlier)
            .map_err(|error| with_causes(&error));
        let (name, role_name) = (&device.name, role.name());
        match &attachment {
            Ok(attachment) if is_new => {
                let hooks = attachment.hooks();
                let since = self.appeared.remove(&device.index);
                let after_ms = since.map(|since| since.elapsed().as_millis());
                tracing::info!(
                    device = name,
                    role = role_name,
                    hooks,
                    after_ms,
                    "device attached"
                );
            }
            Err(_) if !device.exists() => {
                tracing::debug!(device = name, "device went before it was served");
                return;
            }
            Err(error) if trouble.as_ref() != Some(error) => {
                tracing::warn!(
                    device = name,
                    role = role_name,
                    error,
                    "device not attached"
                );
            }
            _ => {}
        }
        let obstacle = match role {
            Role::Pod => self.datapath.obstacle(&device),
            _ => None,
        };
        if self.local_delivery == LocalDelivery::Auto && known != obstacle {
            tell(&device, known.as_ref(), obstacle.as_ref());
        }
        self.attached.insert(
            device.index,
            Attached {
                device,
                role,
                attachment,
                obstacle,
            },
        );
    }
}

impl Attached {
    /// Whether this is the same device in the same part; the name does not matter.
    fn is(&self, device: &Device, role: Role) -> bool {
        self.role == role && self.device.layer == device.layer
    }

    /// Whether nothing is to be done for the device as it is now.
    fn is_settled(&self, device: &Device) -> bool {
        self.attachment.is_ok()
            && self.device.is_fed_here == device.is_fed_here
            && self.device.obstacle == device.obstacle
    }

    /// Whether packets may go past it to the pod behind it.
    fn is_free(&self) -> bool {
        self.role == Role::Pod && self.attachment.is_ok() && self.obstacle.is_none()
    }

    fn delivery(&self, how: LocalDelivery) -> DeliveryView {
        if self.role != Role::Pod || self.attachment.is_err() {
            return DeliveryView::default();
        }
        let is_auto = how == LocalDelivery::Auto;
        let obstacle = self.obstacle.as_ref().filter(|_| is_auto);
        let is_past = is_auto && obstacle.is_none();
        DeliveryView {
            delivery: Some(if is_past { "peer" } else { "device" }),
            no_peer: obstacle.map(Obstacle::to_string),
        }
    }

    fn view(&self, local_delivery: LocalDelivery) -> DeviceView {
        DeviceView {
            name: self.device.name.clone(),
            role: self.role,
            hooks: self.attachment.as_ref().ok().map(Attachment::hooks),
            no_xdp: self
                .attachment
                .as_ref()
                .ok()
                .and_then(Attachment::no_xdp)
                .map(str::to_owned),
            delivery: self.delivery(local_delivery),
            error: self.attachment.as_ref().err().cloned(),
        }
    }
}

/// Says what has become of the way past a device, if that is not what the device is.
fn tell(device: &Device, before: Option<&Obstacle>, now: Option<&Obstacle>) {
    let name = &device.name;
    match now {
        Some(reason) if reason.is_put() && device.exists() => tracing::info!(
            device = name,
            %reason,
            "packets to this pod go by the host side of its device"
        ),
        None if before.is_some() => {
            tracing::info!(device = name, "packets go straight to this pod now");
        }
        _ => {}
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
