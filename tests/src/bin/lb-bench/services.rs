//! Services by number: as many as wanted, of ten endpoints each. The one in the middle is dialled, the others are only there.
//!
//! The one that is dialled has a port of UDP and one of TCP, and backends that exist; the others have a port of TCP.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    net::Ipv4Addr,
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Endpoints of each service.
pub(crate) const ENDPOINTS: u32 = 10;
/// The port that is dialled.
pub(crate) const PORT: u16 = 80;
/// The port of the backends.
pub(crate) const TARGET: u16 = 8080;
/// Host number of the first backend that exists; [`backends`] are those from it on.
const FIRST_BACKEND: u8 = 11;
/// The manifest of the service that is dialled, apart from the others so that its change is one of a small file.
const DIALLED: &str = "dialled";
/// Services of one manifest of the others: the agent takes files of up to 64 MiB.
const PER_FILE: usize = 5_000;

/// How manifests are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A list of objects in each file, one object a line.
    Json,
    /// A document for each object.
    Yaml,
}

impl Form {
    /// What names of files end in.
    fn suffix(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Yaml => "yaml",
        }
    }
}

/// So many services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Services(pub(crate) u32);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Counted from 0.
    pub(crate) number: u32,
    /// It is the one that is dialled.
    pub(crate) is_dialled: bool,
}

/// The backends that exist.
pub(crate) fn backends() -> impl Iterator<Item = Ipv4Addr> {
    (FIRST_BACKEND..)
        .take(ENDPOINTS as usize)
        .map(|host| Ipv4Addr::new(10, 244, 2, host))
}

impl Services {
    /// All of them.
    pub(crate) fn all(self) -> impl Iterator<Item = Service> {
        let dialled = self.0 / 2;
        (0..self.0).map(move |number| Service {
            number,
            is_dialled: number == dialled,
        })
    }

    /// Where the one in the middle is dialled.
    pub(crate) fn dialled(self) -> Ipv4Addr {
        let service = Service {
            number: self.0 / 2,
            is_dialled: true,
        };
        service.address()
    }

    /// Writes manifests of all services into a directory.
    pub(crate) fn write(self, dir: &Path, form: Form) -> Result<()> {
        let (dialled, others): (Vec<_>, Vec<_>) =
            self.all().partition(|service| service.is_dialled);
        let suffix = form.suffix();
        let path = dir.join(format!("{DIALLED}.{suffix}"));
        write(&path, form, &dialled, ENDPOINTS)?;
        for (at, some) in others.chunks(PER_FILE).enumerate() {
            let path = dir.join(format!("others-{at}.{suffix}"));
            write(&path, form, some, ENDPOINTS)?;
        }
        Ok(())
    }

    /// Ports of all services together.
    pub(crate) fn ports(self) -> usize {
        self.all().map(|service| service.protocols().len()).sum()
    }

    /// Endpoints of all ports of all services together.
    pub(crate) fn endpoints(self) -> u64 {
        self.ports() as u64 * u64::from(ENDPOINTS)
    }

    /// Writes the manifest in JSON of the one that is dialled once more, with so many endpoints.
    pub(crate) fn rewrite(self, dir: &Path, endpoints: u32) -> Result<()> {
        let dialled: Vec<_> = self.all().filter(|service| service.is_dialled).collect();
        // No reader sees half of it, and none takes the unfinished one for a manifest.
        let unfinished = dir.join(format!("{DIALLED}.new"));
        write(&unfinished, Form::Json, &dialled, endpoints)?;
        let finished = dir.join(format!("{DIALLED}.json"));
        std::fs::rename(&unfinished, finished).context("replace a manifest")
    }

    /// Removes the manifest in JSON of the one that is dialled.
    pub(crate) fn withdraw(dir: &Path) -> Result<()> {
        std::fs::remove_file(dir.join(format!("{DIALLED}.json"))).context("remove a manifest")
    }
}

impl Service {
    /// Where it is dialled.
    pub(crate) fn address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 97, 0, 0).to_bits() + self.number)
    }

    /// Its name.
    pub(crate) fn name(self) -> String {
        format!("service-{}", self.number)
    }

    /// Protocols in which [`PORT`] is dialled.
    pub(crate) fn protocols(self) -> &'static [&'static str] {
        if self.is_dialled {
            &["tcp", "udp"]
        } else {
            &["tcp"]
        }
    }

    /// Its endpoints.
    pub(crate) fn endpoints(self) -> Vec<Ipv4Addr> {
        /// Endpoints of one service have numbers after each other.
        const STRIDE: u32 = 16;
        if self.is_dialled {
            return backends().collect();
        }
        let base = Ipv4Addr::new(10, 128, 0, 0).to_bits() + self.number * STRIDE;
        (1..=ENDPOINTS)
            .map(|endpoint| Ipv4Addr::from_bits(base + endpoint))
            .collect()
    }

    /// Its objects, with so many of its endpoints.
    fn objects(self, endpoints: u32) -> [Value; 2] {
        let name = self.name();
        let ports = self.protocols().iter();
        let ports: Vec<Value> = ports
            .clone()
            .map(|protocol| json!({"name": protocol, "protocol": protocol.to_uppercase(), "port": PORT, "targetPort": TARGET}))
            .collect();
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": self.address(), "ports": ports},
        });
        let targets: Vec<Value> = self
            .protocols()
            .iter()
            .map(|protocol| json!({"name": protocol, "protocol": protocol.to_uppercase(), "port": TARGET}))
            .collect();
        let endpoints: Vec<Value> = self
            .endpoints()
            .iter()
            .take(endpoints as usize)
            .map(|address| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "node-2"}))
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-1"),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": targets,
        });
        [service, slice]
    }
}

fn write(path: &Path, form: Form, services: &[Service], endpoints: u32) -> Result<()> {
    let objects = services
        .iter()
        .flat_map(|service| service.objects(endpoints));
    let write = || -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        match form {
            Form::Json => write_json(&mut file, objects)?,
            Form::Yaml => write_yaml(&mut file, objects)?,
        }
        Ok(file.flush()?)
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// One object a line: what a service has of them fits into the processor's cache.
fn write_json(file: &mut impl io::Write, objects: impl Iterator<Item = Value>) -> Result<()> {
    file.write_all(b"{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [")?;
    for (at, object) in objects.enumerate() {
        file.write_all(if at == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *file, &object)?;
    }
    Ok(file.write_all(b"\n]}\n")?)
}

fn write_yaml(file: &mut impl io::Write, objects: impl Iterator<Item = Value>) -> Result<()> {
    for object in objects {
        file.write_all(b"---\n")?;
        serde_yaml::to_writer(&mut *file, &object)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::Deserialize as _;

    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let services: Vec<_> = Services(3).all().collect();
        let [json, yaml] = [Form::Json, Form::Yaml].map(|form| {
            let path = dir.path().join(form.suffix());
            write(&path, form, &services, 2).expect("written");
            std::fs::read_to_string(path).expect("readable")
        });
        let list: Value = serde_json::from_str(&json).expect("JSON");
        let documents = serde_yaml::Deserializer::from_str(&yaml);
        let objects: Vec<Value> = documents
            .map(|document| Value::deserialize(document).expect("YAML"))
            .collect();
        assert_eq!(list["items"], json!(objects));
        assert_eq!(objects.len(), 6);
    }

    #[test]
    fn the_service_in_the_middle_is_dialled_and_no_address_is_used_twice() {
        let services = Services(101);
        let dialled: Vec<_> = services
            .all()
            .filter(|service| service.is_dialled)
            .collect();
        assert_eq!(
            dialled
                .iter()
                .map(|service| service.number)
                .collect::<Vec<_>>(),
            [50]
        );
        assert_eq!(dialled[0].address(), services.dialled());
        assert!(dialled[0].endpoints().into_iter().eq(backends()));
        let addresses = services.all().flat_map(|service| {
            let mut addresses = service.endpoints();
            addresses.push(service.address());
            addresses
        });
        let addresses: Vec<_> = addresses.collect();
        let different: BTreeSet<_> = addresses.iter().collect();
        assert_eq!(different.len(), addresses.len());
        assert_eq!(addresses.len(), 101 * 11);
    }
}
