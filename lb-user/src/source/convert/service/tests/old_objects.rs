//! What the API refuses in new objects, and old ones have.

use super::*;

#[test]
fn what_old_objects_have_is_used_as_proxies_do() {
    let (service, said) = of_spec(&with(
        &json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.1.2.3/8"]}),
    ));
    let ranges = service.expect("used").spec.load_balancer_source_ranges;
    assert_eq!(*ranges, ["10.0.0.0/8".parse().expect("literal")]);
    assert_eq!(
        said,
        [
            "warning spec.loadBalancerSourceRanges[0]: `10.1.2.3/8` has bits after its length and is read as \
          10.0.0.0/8; write that"
        ]
    );
    let unused = json!({"type": "LoadBalancer", "healthCheckNodePort": 30_000});
    let (service, said) = of_spec(&with(&unused));
    assert_eq!(service.expect("used").spec.health_check_node_port, None);
    assert_eq!(
        said,
        [
            "warning spec.healthCheckNodePort: 30000 needs `type: LoadBalancer` and `externalTrafficPolicy: Local`; \
          it is not used"
        ]
    );
}
