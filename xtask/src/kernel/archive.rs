//! An archive of files as the kernel takes it for its first root (cpio, format "newc"; `initramfs-buffer-format` in the
//! kernel's documentation).

/// The files so far.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    n_files: u32,
}

/// File types and permissions, as `stat` has them.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
/// What stands at the end in the place of a file.
const TRAILER: &str = "TRAILER!!!";

impl Archive {
    /// Adds a directory; that in which it lies comes before it.
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[]);
    }

    /// Adds a file that can be run.
    pub(super) fn program(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, content);
    }

    /// All of it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.n_files += 1;
        let name_len = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let len = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let [owner, group, n_links, time, device, checksum] = [0, 0, 1, 0, 0, 0];
        let fields = [
            self.n_files,
            mode,
            owner,
            group,
            n_links,
            time,
            len,
            device,
            device,
            device,
            device,
            name_len,
            checksum,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        let len = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_contents_begin_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.program("bin/a", b"12345");
        let bytes = archive.finish();
        let header = |number: u32, mode: u32, len: u32, name_len: u32| {
            let zeros = "0".repeat(8);
            format!(
                "070701{number:08x}{mode:08x}{zeros}{zeros}00000001{zeros}{len:08x}{zeros}{zeros}{zeros}{zeros}{name_len:08x}{zeros}"
            )
        };
        let expected = [
            header(1, DIRECTORY, 0, 4),
            "bin\0\0\0".to_owned(),
            header(2, PROGRAM, 5, 6),
            "bin/a\0".to_owned(),
            "12345\0\0\0".to_owned(),
            header(3, 0, 0, 11),
            "TRAILER!!!\0\0\0\0".to_owned(),
        ];
        assert_eq!(String::from_utf8(bytes).unwrap(), expected.concat());
    }
}
