//! Numbers of ports, their protocols, and what an application speaks on them.

use std::sync::Arc;

use super::{Remarks, name};
use crate::{desired::Protocol, shared_text::shared, source::spelling};

/// A port number, if it is one.
pub(super) fn port(number: i32, field: &str, remarks: &mut Remarks) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    match (port, number) {
        (Some(_), _) => {}
        // The API does not tell a port that is missing from one that is zero.
        (None, 0) => remarks.error(field, "the field is missing or 0; use 1 to 65535"),
        (None, _) => remarks.error(field, format!("{number} is no port; use 1 to 65535")),
    }
    port
}

/// `protocol`, TCP where none is given. Letter case matters.
pub(super) fn protocol(text: Option<&str>, field: &str, remarks: &mut Remarks) -> Protocol {
    match text {
        None | Some("TCP" | "") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => {
            let hint = spelling::hint(other, ["TCP", "UDP", "SCTP"]);
            let message = format!("`{other}` is no protocol; use TCP, UDP or SCTP{hint}");
            remarks.error(field, message);
            Protocol::Tcp
        }
    }
}

/// `appProtocol`.
pub(super) fn app_protocol(
    text: Option<&str>,
    field: &str,
    remarks: &mut Remarks,
) -> Option<Arc<str>> {
    if let Some(text) = text {
        name::want_qualified(text, "name for a protocol", field, remarks);
    }
    text.map(shared)
}
