//! Connections as rows, printed while they are found: there may be a million of them.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::flow::clock::Tick;
use serde_json::{Value, json};

use super::Form;
use crate::{
    cli::output::{self, Widths},
    flows::connection::{Connection, Sent},
};

/// Rows that are laid out together.
const CHUNK: usize = 1_000;
/// Nanoseconds of a tick.
const TICK_NS: u64 = 1 << 24;

const COLUMNS: [&str; 8] = [
    "PROTOCOL", "CLIENT", "TO", "BACKEND", "SERVICE", "STATE", "AGE", "PACKETS",
];
const WIDE_COLUMNS: [&str; 13] = [
    "PROTOCOL", "CLIENT", "TO", "BACKEND", "SERVICE", "STATE", "AGE", "PACKETS", "BYTES",
    "EXPIRES", "SOURCE", "NODE", "POD",
];

/// What the agent calls things.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Service ports by their ids.
    pub(super) services: BTreeMap<u32, String>,
    /// Pods by their addresses.
    pub(super) pods: BTreeMap<IpAddr, String>,
}

/// Prints rows.
#[derive(Debug)]
pub(super) struct Printer {
    form: Form,
    widths: Widths,
    lines: Vec<Vec<String>>,
    text: String,
    is_begun: bool,
}

impl Printer {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            widths: Widths::default(),
            lines: Vec::new(),
            text: String::new(),
            is_begun: false,
        }
    }

    /// Prints a row, sooner or later; false where nobody reads any more.
    pub(super) fn row(
        &mut self,
        connection: &Connection,
        service: Option<u32>,
        names: &Names,
    ) -> anyhow::Result<bool> {
        if self.form == Form::Json {
            self.text
                .push_str(if self.is_begun { ",\n" } else { "[\n" });
            let object = object(connection, service, names);
            self.text.push_str(&serde_json::to_string(&object)?);
        } else {
            if !self.is_begun {
                let header: &[&str] = match self.form {
                    Form::Wide => &WIDE_COLUMNS,
                    Form::Table | Form::Json => &COLUMNS,
                };
                self.lines
                    .push(header.iter().map(ToString::to_string).collect());
            }
            let mut cells = cells(connection, service, names);
            if self.form == Form::Table {
                cells.truncate(COLUMNS.len());
            }
            self.lines.push(cells);
        }
        self.is_begun = true;
        if self.lines.len() < CHUNK && self.text.len() < CHUNK * 256 {
            return Ok(true);
        }
        self.flush()
    }

    /// Prints what is left; false: there was nothing.
    pub(super) fn end(mut self) -> anyhow::Result<bool> {
        if self.form == Form::Json {
            self.text
                .push_str(if self.is_begun { "\n]\n" } else { "[]\n" });
        }
        self.flush()?;
        Ok(self.is_begun)
    }

    fn flush(&mut self) -> anyhow::Result<bool> {
        let mut text = std::mem::take(&mut self.text);
        if !self.lines.is_empty() {
            text.push_str(&self.widths.lay(&std::mem::take(&mut self.lines)));
        }
        Ok(output::print_more(&text)?)
    }
}

fn cells(connection: &Connection, service: Option<u32>, names: &Names) -> Vec<String> {
    let Connection {
        by_client,
        by_backend,
        ..
    } = connection;
    let dash = || "-".to_owned();
    let owner = match (service_name(service, names), service) {
        (Some(name), _) => name,
        (None, Some(id)) => format!("#{id}"),
        (None, None) => dash(),
    };
    let source = connection.is_masqueraded();
    let source = source.then(|| connection.source.to_string());
    vec![
        protocol(connection.protocol),
        connection.client.to_string(),
        connection.dialled.to_string(),
        connection.backend.to_string(),
        owner,
        connection.stage.to_string(),
        output::age(seconds(connection.age)),
        format!("{}/{}", by_client.packets, by_backend.packets),
        format!(
            "{}/{}",
            output::bytes(by_client.bytes),
            output::bytes(by_backend.bytes)
        ),
        output::age(seconds(connection.remaining)),
        source.unwrap_or_else(dash),
        node(connection).to_owned(),
        pod(connection, names).unwrap_or_else(dash),
    ]
}

fn object(connection: &Connection, service: Option<u32>, names: &Names) -> Value {
    let sent = |Sent { packets, bytes }: Sent| json!({ "packets": packets, "bytes": bytes });
    let source = connection.is_masqueraded();
    json!({
        "family": connection.family.to_string(),
        "protocol": protocol(connection.protocol),
        "client": connection.client,
        "to": connection.dialled,
        "backend": connection.backend,
        "backend_id": connection.backend_ref.id,
        "pod": pod(connection, names),
        "node": node(connection),
        "source": source.then_some(connection.source),
        "service": service_name(service, names),
        "service_id": service,
        "state": connection.stage,
        "age_s": seconds(connection.age),
        "expires_in_s": seconds(connection.remaining),
        "by_client": sent(connection.by_client),
        "by_backend": sent(connection.by_backend),
    })
}

/// `NAMESPACE/NAME[:PORT]`.
fn service_name(id: Option<u32>, names: &Names) -> Option<String> {
    let name = names.services.get(&id?)?;
    // The row says protocol and family by itself.
    Some(name.split(' ').next().unwrap_or(name).to_owned())
}

fn pod(connection: &Connection, names: &Names) -> Option<String> {
    names.pods.get(&connection.backend.ip()).cloned()
}

fn node(connection: &Connection) -> &'static str {
    if connection.is_local {
        "local"
    } else {
        "remote"
    }
}

fn protocol(number: u8) -> String {
    match number {
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

fn seconds(ticks: Tick) -> u64 {
    u64::from(ticks) * TICK_NS / 1_000_000_000
}
