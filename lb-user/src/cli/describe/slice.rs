//! Endpoint slices.

use serde_json::Value;

use super::{
    endpoints,
    text::{Text, or_unset},
};
use crate::cli::object::{list, or_none, text, texts};

pub(super) fn describe(object: &Value) -> String {
    let mut shown = Text::default();
    shown.name(object);
    shown.labels_and_annotations(object);
    shown.field(0, "AddressType", text(object, "/addressType"));
    if list(object, "/ports").is_empty() {
        shown.line(0, "Ports: <unset>");
    } else {
        endpoints::ports(object, &mut shown, 0);
    }
    match list(object, "/endpoints") {
        [] => shown.line(0, "Endpoints: <none>"),
        endpoints => {
            shown.line(0, "Endpoints:");
            for endpoint in endpoints {
                self::endpoint(endpoint, &mut shown);
            }
        }
    }
    shown.finish()
}

fn endpoint(endpoint: &Value, shown: &mut Text) {
    let addresses = or_none(texts(endpoint, "/addresses").join(", "));
    shown.field(1, "- Addresses", addresses);
    shown.line(2, "Conditions:");
    let ready = endpoint
        .pointer("/conditions/ready")
        .and_then(Value::as_bool);
    let ready = ready.map_or("<unset>".to_owned(), |ready| ready.to_string());
    shown.field(3, "Ready", ready);
    shown.field(2, "Hostname", or_unset(endpoint, "/hostname"));
    if endpoint.get("targetRef").is_some() {
        let (kind, name) = (
            text(endpoint, "/targetRef/kind"),
            text(endpoint, "/targetRef/name"),
        );
        shown.field(2, "TargetRef", format_args!("{kind}/{name}"));
    }
    shown.field(2, "NodeName", or_unset(endpoint, "/nodeName"));
    shown.field(2, "Zone", or_unset(endpoint, "/zone"));
}
