//! What a map is like: as the object wants it, and as it is found.

use std::{collections::BTreeMap, fmt, io, path::Path};

use aya::{
    EbpfError,
    maps::{MapData, MapType},
};
use aya_obj::{
    Object,
    generated::{BPF_F_RDONLY_PROG, bpf_map_type},
};
use lb_common::abi::map;

use super::object::{OBJECT, ObjectError};

/// Everything by which the kernel tells maps apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// `enum bpf_map_type` of `linux/bpf.h`.
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Its entries, or how many there may be.
    pub max_entries: u32,
    /// `BPF_F_*` of `linux/bpf.h`.
    pub flags: u32,
}

/// What is at a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no pin.
    Nothing,
    /// A map.
    Map(Form),
    /// Something else.
    Stranger,
}

/// The maps that are pinned, as the object has them.
pub(super) fn wanted() -> Result<BTreeMap<&'static str, Form>, ObjectError> {
    let object =
        Object::parse(OBJECT).map_err(|error| ObjectError::Load(EbpfError::ParseError(error)))?;
    let forms = map::ALL.into_iter().filter_map(|name| {
        let map = object.maps.get(name)?;
        let form = Form {
            kind: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: map.max_entries(),
            flags: map.map_flags(),
        };
        Some((name, form))
    });
    Ok(forms.collect())
}

/// What is pinned at `path`. An error: the kernel does not say, for want of rights perhaps.
pub(super) fn found(path: &Path) -> io::Result<Found> {
    if let Err(error) = path.symlink_metadata() {
        return match error.kind() {
            io::ErrorKind::NotFound => Ok(Found::Nothing),
            _ => Err(error),
        };
    }
    let map = match MapData::from_pin(path) {
        Ok(map) => map,
        Err(aya::maps::MapError::SyscallError(error))
            if error.io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            return Err(error.io_error);
        }
        // A program, or a map of a type that aya does not know.
        Err(_) => return Ok(Found::Stranger),
    };
    let info = map.info().map_err(io::Error::other)?;
    let Ok(kind) = info.map_type() else {
        return Ok(Found::Stranger);
    };
    let own = match kind {
        // The kernel's own addition (`kernel/bpf/devmap.c`), which nobody may ask for.
        MapType::DevMapHash => BPF_F_RDONLY_PROG,
        _ => 0,
    };
    Ok(Found::Map(Form {
        kind: kind as u32,
        key_size: info.key_size(),
        value_size: info.value_size(),
        max_entries: info.max_entries(),
        flags: info.map_flags() & !own,
    }))
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            key_size,
            value_size,
            max_entries,
            flags,
        } = self;
        match name(*kind) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "a map of type {kind}")?,
        }
        write!(
            f,
            " of {max_entries} entries with keys of {key_size} and values of {value_size} bytes, flags {flags:#x}"
        )
    }
}

/// What `bpftool` calls it; of the types that are in use.
fn name(kind: u32) -> Option<&'static str> {
    let names = [
        (bpf_map_type::BPF_MAP_TYPE_HASH, "hash"),
        (bpf_map_type::BPF_MAP_TYPE_LRU_HASH, "lru_hash"),
        (bpf_map_type::BPF_MAP_TYPE_ARRAY, "array"),
        (bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, "percpu_array"),
        (bpf_map_type::BPF_MAP_TYPE_LPM_TRIE, "lpm_trie"),
        (bpf_map_type::BPF_MAP_TYPE_DEVMAP_HASH, "devmap_hash"),
    ];
    let mut known = names.into_iter();
    known
        .find(|(known, _)| *known as u32 == kind)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::SHAPES;

    #[test]
    fn the_object_wants_every_map_as_its_reader_does() {
        let wanted = wanted().expect("our own object");
        for shape in SHAPES {
            let form = wanted[shape.name];
            let found = (
                name(form.kind).map(str::to_owned),
                form.key_size,
                form.value_size,
            );
            let expected = (
                Some(shape.kind.to_string()),
                shape.key_size,
                shape.value_size,
            );
            assert_eq!(found, expected, "{}", shape.name);
        }
    }

    #[test]
    fn a_form_is_told_in_full() {
        let form = Form {
            kind: 1,
            key_size: 8,
            value_size: 44,
            max_entries: 9,
            flags: 1,
        };
        assert_eq!(
            form.to_string(),
            "hash of 9 entries with keys of 8 and values of 44 bytes, flags 0x1"
        );
        let other = Form { kind: 99, ..form };
        assert!(
            other
                .to_string()
                .starts_with("a map of type 99 of 9 entries")
        );
    }
}
