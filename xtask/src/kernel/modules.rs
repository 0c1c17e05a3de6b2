//! Which modules are loaded before there is a root to load them from, and in which order.

use anyhow::{Context as _, Result};

/// What the machine is seen by, and what its root is made of.
const FIRST: [&str; 5] = [
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
];

/// The paths of those modules and of all that they need, each after what it needs; `dependencies` is the kernel's
/// `modules.dep`.
pub(super) fn first(dependencies: &str) -> Result<Vec<&str>> {
    let mut ordered = Vec::new();
    for name in FIRST {
        let file = format!("{name}.ko");
        let (module, needs) = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(module, _)| module.rsplit('/').next() == Some(&file))
            .with_context(|| format!("the kernel has no module {name}"))?;
        // What is needed by others comes last in a line.
        for path in needs.split_whitespace().rev().chain([module]) {
            if !ordered.contains(&path) {
                ordered.push(path);
            }
        }
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_all_that_it_needs_and_once() {
        let dependencies = "\
kernel/fs/overlayfs/overlay.ko:
kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/fscache.ko kernel/fs/netfs.ko
kernel/net/9p/9pnet.ko:
kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko kernel/drivers/virtio.ko kernel/drivers/ring.ko
kernel/drivers/virtio_pci.ko: kernel/drivers/virtio.ko kernel/drivers/ring.ko
kernel/drivers/virtio_console.ko: kernel/drivers/virtio.ko kernel/drivers/ring.ko
";
        let names = first(dependencies).unwrap();
        let names: Vec<_> = names
            .iter()
            .map(|path| path.rsplit('/').next().unwrap())
            .collect();
        let expected = "ring.ko virtio.ko virtio_pci.ko virtio_console.ko 9pnet.ko 9pnet_virtio.ko netfs.ko fscache.ko 9p.ko overlay.ko";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn a_kernel_without_one_of_them_is_refused_by_its_name() {
        let error = first("kernel/drivers/virtio_pci.ko:").unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no module virtio_console");
    }
}
