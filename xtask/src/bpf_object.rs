//! The compiled eBPF object, as far as the build can judge it: section and symbol names of an ELF file.
//!
//! Says why an object must not be shipped. It never asks the kernel; `cargo xtask verify` does. It is std-only because
//! the build script of `lb-user` includes it by path.

use std::fmt;

/// Why an object is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not a little-endian 64-bit ELF file, or cut short.
    Malformed,
    /// A path to a panic survived the optimiser; the verifier would refuse it with a message that does not say where.
    Panics { symbol: String },
    /// No type information: the maps could not be created with their types.
    NoBtf,
    /// A map in the old format, which stops other loaders from reading the object.
    LegacyMaps,
}

/// Whether the object may hold maps in the old format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LegacyMaps {
    Allowed,
    Refused,
}

const BTF_SECTION: &str = ".BTF";
const LEGACY_MAPS_SECTION: &str = "maps";

/// Checks the bytes of an object.
pub(crate) fn check(elf: &[u8], legacy_maps: LegacyMaps) -> Result<(), Fault> {
    let names = Names::read(elf).ok_or(Fault::Malformed)?;
    if let Some(symbol) = names
        .symbols
        .into_iter()
        .find(|name| name.contains("panic"))
    {
        return Err(Fault::Panics { symbol });
    }
    let has_section = |name: &str| names.sections.iter().any(|section| section == name);
    if !has_section(BTF_SECTION) {
        return Err(Fault::NoBtf);
    }
    if legacy_maps == LegacyMaps::Refused && has_section(LEGACY_MAPS_SECTION) {
        return Err(Fault::LegacyMaps);
    }
    Ok(())
}

/// The names in an ELF file.
struct Names {
    sections: Vec<String>,
    symbols: Vec<String>,
}

impl Names {
    /// `None` if the file is not ELF64 of little endian, or if an offset leads out of it.
    fn read(elf: &[u8]) -> Option<Self> {
        const CLASS_64_LITTLE_ENDIAN: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
        const SYMBOL_TABLE: u32 = 2;
        const SYMBOL_LEN: usize = 24;
        if !elf.starts_with(&CLASS_64_LITTLE_ENDIAN) {
            return None;
        }
        let sections = Section::read_all(elf)?;
        let names_of_sections = sections.get(usize::from(u16_at(elf, 62)?))?.bytes(elf)?;
        let mut symbols = Vec::new();
        for table in sections
            .iter()
            .filter(|section| section.kind == SYMBOL_TABLE)
        {
            let strings = sections.get(table.link)?.bytes(elf)?;
            for symbol in table.bytes(elf)?.chunks_exact(SYMBOL_LEN) {
                symbols.push(string_at(strings, u32_at(symbol, 0)?)?);
            }
        }
        let sections = sections
            .iter()
            .map(|section| string_at(names_of_sections, section.name))
            .collect::<Option<_>>()?;
        Some(Self { sections, symbols })
    }
}

/// One section header (`Elf64_Shdr`), as much of it as is needed.
struct Section {
    name: u32,
    kind: u32,
    link: usize,
    offset: usize,
    len: usize,
}

impl Section {
    fn read_all(elf: &[u8]) -> Option<Vec<Self>> {
        let table = usize::try_from(u64_at(elf, 40)?).ok()?;
        let header_len = usize::from(u16_at(elf, 58)?);
        let n_sections = usize::from(u16_at(elf, 60)?);
        (0..n_sections)
            .map(|idx| {
                let header = elf.get(table.checked_add(idx * header_len)?..)?;
                Some(Self {
                    name: u32_at(header, 0)?,
                    kind: u32_at(header, 4)?,
                    offset: usize::try_from(u64_at(header, 24)?).ok()?,
                    len: usize::try_from(u64_at(header, 32)?).ok()?,
                    link: usize::try_from(u32_at(header, 40)?).ok()?,
                })
            })
            .collect()
    }

    fn bytes<'a>(&self, elf: &'a [u8]) -> Option<&'a [u8]> {
        elf.get(self.offset..self.offset.checked_add(self.len)?)
    }
}

fn string_at(strings: &[u8], offset: u32) -> Option<String> {
    let tail = strings.get(usize::try_from(offset).ok()?..)?;
    let name = tail.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not a complete ELF file of a little-endian BPF target"),
            Self::Panics { symbol } => write!(
                f,
                "a panic survived the optimiser (symbol {symbol}), which the verifier refuses; \
                 look for computed indices, divisions and arithmetic that may overflow"
            ),
            Self::NoBtf => f.write_str("no .BTF section; link it with `--btf` and debug information"),
            Self::LegacyMaps => f.write_str(
                "a map in the old format (section maps), which other loaders refuse; define it with #[btf_map]",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_LEN: usize = 64;

    /// An ELF file with these sections (without contents) and symbols.
    fn elf(sections: &[&str], symbols: &[&str]) -> Vec<u8> {
        let mut strings = vec![0];
        let mut name = |text: &str| {
            let offset = u32::try_from(strings.len()).unwrap();
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            offset
        };
        let mut symbol_table = Vec::new();
        for symbol in symbols {
            symbol_table.extend_from_slice(&name(symbol).to_le_bytes());
            symbol_table.extend_from_slice(&[0; 20]);
        }
        let mut headers = vec![(name(".strtab"), 3_u32), (name(".symtab"), 2)];
        headers.extend(sections.iter().map(|section| (name(section), 1)));
        let contents = [strings, symbol_table];
        build(&headers, &contents)
    }

    fn build(headers: &[(u32, u32)], contents: &[Vec<u8>]) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1];
        file.resize(HEADER_LEN, 0);
        let mut table = Vec::new();
        for (idx, (name, kind)) in headers.iter().enumerate() {
            let content = contents.get(idx).map_or(&[][..], Vec::as_slice);
            let mut header = [0; 64];
            header[0..4].copy_from_slice(&name.to_le_bytes());
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            file.extend_from_slice(content);
            table.extend_from_slice(&header);
        }
        let table_offset = file.len() as u64;
        file[40..48].copy_from_slice(&table_offset.to_le_bytes());
        file[58..60].copy_from_slice(&64_u16.to_le_bytes());
        file[60..62].copy_from_slice(&u16::try_from(headers.len()).unwrap().to_le_bytes());
        file.extend_from_slice(&table);
        file
    }

    #[test]
    fn an_object_with_types_and_without_panics_is_accepted() {
        let object = elf(&[".text", BTF_SECTION], &["tc_pod", "SERVICES_V4"]);
        assert_eq!(check(&object, LegacyMaps::Refused), Ok(()));
    }

    #[test]
    fn a_surviving_panic_is_named() {
        let symbol = "_ZN4core9panicking18panic_bounds_check17h0E";
        let object = elf(&[BTF_SECTION], &["tc_pod", symbol]);
        assert_eq!(
            check(&object, LegacyMaps::Refused),
            Err(Fault::Panics {
                symbol: symbol.to_owned()
            })
        );
    }

    #[test]
    fn an_object_without_types_is_refused() {
        assert_eq!(
            check(&elf(&[".text"], &[]), LegacyMaps::Refused),
            Err(Fault::NoBtf)
        );
    }

    #[test]
    fn a_legacy_map_is_refused_unless_it_is_allowed() {
        let object = elf(&[BTF_SECTION, LEGACY_MAPS_SECTION], &[]);
        assert_eq!(check(&object, LegacyMaps::Refused), Err(Fault::LegacyMaps));
        assert_eq!(check(&object, LegacyMaps::Allowed), Ok(()));
    }

    #[test]
    fn a_file_cut_anywhere_is_malformed_and_never_panics() {
        let object = elf(&[BTF_SECTION], &["tc_pod"]);
        for len in 0..object.len() {
            let cut = check(&object[..len], LegacyMaps::Refused);
            // The tail of the last header is not read.
            let is_complete = object.len() - len <= 20;
            assert!(
                is_complete || cut == Err(Fault::Malformed),
                "{len} bytes: {cut:?}"
            );
        }
    }
}
