//! Which kinds of objects there are, and which of them are served.

use super::{node::shorten, spelling};
use crate::model::object::Kind;

/// What an `apiVersion` and `kind` say about an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A kind that the control plane works with.
    Ours(Kind),
    /// A list of objects; `Some` where the list's own kind says which.
    List(Option<Kind>),
    /// A kind that exists and is not worked with.
    Foreign,
    /// No such thing: what is wrong, and in which field.
    Wrong {
        field: &'static str,
        message: String,
    },
}

/// Kinds of Kubernetes itself, and of its Gateway API, that nothing here looks at.
const FOREIGN: [&str; 70] = [
    "APIService",
    "Binding",
    "CSIDriver",
    "CSINode",
    "CSIStorageCapacity",
    "CertificateSigningRequest",
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterTrustBundle",
    "ComponentStatus",
    "ConfigMap",
    "ControllerRevision",
    "CronJob",
    "CustomResourceDefinition",
    "DaemonSet",
    "Deployment",
    "DeviceClass",
    "Event",
    "Eviction",
    "FlowSchema",
    "GRPCRoute",
    "Gateway",
    "GatewayClass",
    "HTTPRoute",
    "HorizontalPodAutoscaler",
    "IPAddress",
    "Ingress",
    "IngressClass",
    "Job",
    "Kustomization",
    "Lease",
    "LimitRange",
    "LocalSubjectAccessReview",
    "MutatingAdmissionPolicy",
    "MutatingWebhookConfiguration",
    "Namespace",
    "NetworkPolicy",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "PodSecurityPolicy",
    "PodTemplate",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "ReferenceGrant",
    "ReplicaSet",
    "ReplicationController",
    "ResourceClaim",
    "ResourceClaimTemplate",
    "ResourceQuota",
    "ResourceSlice",
    "Role",
    "RoleBinding",
    "RuntimeClass",
    "Secret",
    "SelfSubjectAccessReview",
    "ServiceAccount",
    "ServiceCIDR",
    "StatefulSet",
    "StorageClass",
    "SubjectAccessReview",
    "TCPRoute",
    "TLSRoute",
    "TokenReview",
    "UDPRoute",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "VolumeAttachment",
    "VolumeAttributesClass",
];

/// What command lines call the kinds that are served.
const SHORT: [(&str, &str); 5] = [
    ("svc", "Service"),
    ("ep", "Endpoints"),
    ("po", "Pod"),
    ("no", "Node"),
    ("eps", "EndpointSlice"),
];

/// Kinds whose objects live in no namespace.
const CLUSTER_WIDE: [&str; 28] = [
    "APIService",
    "CSIDriver",
    "CSINode",
    "CertificateSigningRequest",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "DeviceClass",
    "FlowSchema",
    "GatewayClass",
    "IPAddress",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PodSecurityPolicy",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "ResourceSlice",
    "RuntimeClass",
    "ServiceCIDR",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "VolumeAttachment",
    "VolumeAttributesClass",
];

/// Judges an `apiVersion` and a `kind`.
pub(super) fn classify(api_version: &str, kind: &str) -> Class {
    if let Some(ours) = ours(kind) {
        return with_version(ours, api_version, Class::Ours(ours));
    }
    if kind == "List" {
        return Class::List(None);
    }
    if let Some(item) = kind.strip_suffix("List").and_then(ours) {
        return with_version(item, api_version, Class::List(Some(item)));
    }
    let item = kind.strip_suffix("List").unwrap_or(kind);
    if FOREIGN.contains(&item) || is_custom(api_version) {
        return Class::Foreign;
    }
    let known = Kind::ALL.into_iter().map(Kind::name).chain(FOREIGN);
    let short = SHORT.iter().find(|(short, _)| *short == kind);
    let hint = match short {
        Some((_, name)) => format!(" (did you mean `{name}`?)"),
        None => spelling::hint(kind, known.chain(["List"])),
    };
    Class::Wrong {
        field: "kind",
        message: format!("there is no kind `{}`{hint}", shorten(kind)),
    }
}

/// Whether objects of a kind live in no namespace, as far as the kind is known.
pub(super) fn is_cluster_wide(kind: &str) -> bool {
    CLUSTER_WIDE.contains(&kind)
}

fn ours(kind: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|ours| ours.name() == kind)
}

fn with_version(kind: Kind, api_version: &str, class: Class) -> Class {
    if api_version == kind.api_version() {
        return class;
    }
    // A custom resource may share a kind's name, as Knative's Service does; a slip is none.
    let is_slip = spelling::nearest(api_version, [kind.api_version()]).is_some();
    if is_custom(api_version) && !is_slip {
        return Class::Foreign;
    }
    Class::Wrong {
        field: "apiVersion",
        message: format!(
            "`{}` has no kind {kind} that is served; write `{}`",
            shorten(api_version),
            kind.api_version()
        ),
    }
}

/// Whether a version belongs to an API group that is not Kubernetes' own.
fn is_custom(api_version: &str) -> bool {
    api_version
        .split_once('/')
        .is_some_and(|(group, _)| group.contains('.') && !group.ends_with(".k8s.io"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_kind_is_told_the_right_one() {
        let Class::Wrong { field, message } = classify("v1", "Servie") else {
            panic!("`Servie` is no kind");
        };
        assert_eq!(field, "kind");
        assert_eq!(
            message,
            "there is no kind `Servie` (did you mean `Service`?)"
        );
    }

    #[test]
    fn short_names_and_lists_are_told_the_kind() {
        for (word, meant) in [("svc", "Service"), ("po", "Pod"), ("Lst", "List")] {
            let message = format!("there is no kind `{word}` (did you mean `{meant}`?)");
            let field = "kind";
            assert_eq!(classify("v1", word), Class::Wrong { field, message });
        }
    }

    #[test]
    fn the_version_must_fit_the_kind() {
        assert_eq!(classify("v1", "Service"), Class::Ours(Kind::Service));
        assert!(matches!(
            classify("apps/v1", "Service"),
            Class::Wrong {
                field: "apiVersion",
                ..
            }
        ));
        assert!(matches!(
            classify("discovery.k8s.io/v1beta1", "EndpointSlice"),
            Class::Wrong {
                field: "apiVersion",
                ..
            }
        ));
    }

    #[test]
    fn kinds_of_others_are_foreign_and_lists_say_what_they_hold() {
        assert_eq!(classify("networking.k8s.io/v1", "Ingress"), Class::Foreign);
        assert_eq!(classify("example.com/v1", "Widget"), Class::Foreign);
        assert_eq!(
            classify("serving.knative.dev/v1", "Service"),
            Class::Foreign
        );
        assert_eq!(classify("apps/v1", "DeploymentList"), Class::Foreign);
        assert!(matches!(
            classify("discovery.k8s.oi/v1", "EndpointSlice"),
            Class::Wrong { .. }
        ));
        assert!(is_cluster_wide("Node") && !is_cluster_wide("Pod"));
        assert_eq!(classify("v1", "List"), Class::List(None));
        assert_eq!(classify("v1", "PodList"), Class::List(Some(Kind::Pod)));
    }
}
