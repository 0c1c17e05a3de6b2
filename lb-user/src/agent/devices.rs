//! Devices as they come and go: whatever plays a part has our programs, nothing else has.
//!
//! Level-triggered: an event only says that it is time to look. What is there then is compared with
//! what is attached, so that lost events and renames need no case of their own.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use serde::Serialize;
use tokio::{sync::watch, time};

use crate::{
    causes::with_causes,
    loader::{
        Datapath,
        attach::Attachment,
        device::{Device, Role, Selection},
        netlink::{Netlink, NetlinkError},
    },
};

/// Pause after a look: bounds the work that a burst of events causes.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause after the kernel could not list the devices.
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

/// The devices that the programs are on.
#[derive(Debug)]
pub struct Devices {
    // Detached before the datapath, which is below, goes.
    attached: BTreeMap<u32, Attached>,
    selection: Selection,
    netlink: Netlink,
    datapath: Datapath,
    views: watch::Sender<Vec<DeviceView>>,
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
        selection: Selection,
        views: watch::Sender<Vec<DeviceView>>,
    ) -> Self {
        Self {
            attached: BTreeMap::new(),
            selection,
            netlink,
            datapath,
            views,
        }
    }

    /// Attaches and detaches what changed since the last look; returns how many devices are served.
    ///
    /// A device that fails is told once and tried again at each look.
    pub async fn look(&mut self) -> Result<usize, NetlinkError> {
        let wanted = parts(self.netlink.devices().await?, &self.selection);
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
        self.views.send_replace(views);
        Ok(n_served)
    }

    /// Looks whenever a link changed, for ever.
    pub async fn follow(&mut self) -> Infallible {
        loop {
            self.netlink.changed().await;
            while let Err(error) = self.look().await {
                tracing::warn!(
                    error = with_causes(&error),
                    "devices cannot be followed for now"
                );
                time::sleep(RETRY).await;
            }
            time::sleep(PAUSE).await;
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
