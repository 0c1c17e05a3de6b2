//! Volumes of a pod.

use serde_json::Value;

use super::text::{Text, or_unset};
use crate::cli::object::{NONE, UNKNOWN, is_true, list, text, text_or};

pub(super) fn describe(object: &Value, shown: &mut Text) {
    let volumes = list(object, "/spec/volumes");
    if volumes.is_empty() {
        return shown.field(0, "Volumes", NONE);
    }
    shown.line(0, "Volumes:");
    for volume in volumes {
        shown.line(1, format_args!("{}:", text(volume, "/name")));
        let mut fields = volume.as_object().into_iter().flatten();
        match fields.find(|(key, _)| *key != "name") {
            Some((kind, source)) => self::source(kind, source, shown),
            None => shown.line(1, UNKNOWN),
        }
    }
}

fn source(kind: &str, source: &Value, shown: &mut Text) {
    let optional = is_true(source, "/optional");
    let what = match kind {
        "hostPath" => "HostPath (bare host directory volume)",
        "emptyDir" => "EmptyDir (a temporary directory that shares a pod's lifetime)",
        "secret" => "Secret (a volume populated by a Secret)",
        "configMap" => "ConfigMap (a volume populated by a ConfigMap)",
        "persistentVolumeClaim" => {
            "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)"
        }
        "projected" => "Projected (a volume that contains injected data from multiple sources)",
        "nfs" => "NFS (an NFS mount that lasts the lifetime of a pod)",
        other => other,
    };
    shown.field(2, "Type", what);
    match kind {
        "hostPath" => {
            shown.field(2, "Path", text(source, "/path"));
            shown.field(2, "HostPathType", text_or(source, "/type", NONE));
        }
        "emptyDir" => {
            shown.field(2, "Medium", text(source, "/medium"));
            shown.field(2, "SizeLimit", or_unset(source, "/sizeLimit"));
        }
        "secret" => {
            shown.field(2, "SecretName", text(source, "/secretName"));
            shown.field(2, "Optional", optional);
        }
        "configMap" => {
            shown.field(2, "Name", text(source, "/name"));
            shown.field(2, "Optional", optional);
        }
        "persistentVolumeClaim" => {
            shown.field(2, "ClaimName", text(source, "/claimName"));
            shown.field(2, "ReadOnly", is_true(source, "/readOnly"));
        }
        "nfs" => {
            shown.field(2, "Server", text(source, "/server"));
            shown.field(2, "Path", text(source, "/path"));
            shown.field(2, "ReadOnly", is_true(source, "/readOnly"));
        }
        "projected" => list(source, "/sources")
            .iter()
            .for_each(|it| projected(it, shown)),
        _ => {}
    }
}

fn projected(source: &Value, shown: &mut Text) {
    for (field, name) in [("secret", "SecretName"), ("configMap", "ConfigMapName")] {
        if let Some(source) = source.get(field) {
            shown.field(2, name, text(source, "/name"));
            shown.field(2, "Optional", is_true(source, "/optional"));
        }
    }
    if source.get("downwardAPI").is_some() {
        shown.field(2, "DownwardAPI", true);
    }
    if let Some(token) = source.get("serviceAccountToken") {
        let seconds = token.get("expirationSeconds").and_then(Value::as_i64);
        // The API's default.
        shown.field(2, "TokenExpirationSeconds", seconds.unwrap_or(3600));
    }
}
