//! A reader of BTF, the kernel's type information: finds structs, fields and tracepoint prototypes. Pure over bytes, so it is
//! tested on any kernel's. Not a general library: it reads what offsets need.
//!
//! Format: Documentation/bpf/btf.rst. Every access is checked; a malformed blob gives an error, never a panic.

use thiserror::Error;

/// Why type information could not be read.
#[derive(Debug, Error)]
pub enum BtfError {
    /// Not BTF at all.
    #[error("{0} bytes that do not start with BTF's magic number")]
    NotBtf(usize),
    /// A section or type reaches beyond the end.
    #[error("type information cut off or malformed at byte {0}")]
    Malformed(usize),
}

const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_DATASEC: u32 = 15;

/// Parsed type information.
#[derive(Debug)]
pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Byte offset of each type in `types`; index 0 is `void`.
    offsets: Vec<u32>,
}

/// A struct or union, found by name.
#[derive(Clone, Copy, Debug)]
pub struct Struct {
    /// Its number among the types.
    pub id: u32,
    /// Its size in bytes.
    pub size_bytes: u32,
}

struct Type {
    name: u32,
    info: u32,
    size_or_type: u32,
    body: usize,
}

impl Type {
    fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn len(&self) -> usize {
        (self.info & 0xffff) as usize
    }

    fn bitfields(&self) -> bool {
        self.info >> 31 == 1
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let slice = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes([slice[0], slice[1], slice[2], slice[3]]))
}

/// Bytes behind a type's three words.
fn body_bytes(kind: u32, len: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | 19 => len * 12,
        KIND_ENUM | KIND_FUNC_PROTO => len * 8,
        0 | KIND_PTR | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

impl Btf {
    /// Parses a blob such as /sys/kernel/btf/vmlinux.
    pub fn parse(blob: &[u8]) -> Result<Self, BtfError> {
        if blob.get(..2) != Some(&[0x9f, 0xeb]) {
            return Err(BtfError::NotBtf(blob.len()));
        }
        let field = |at: usize| word(blob, at).ok_or(BtfError::Malformed(at));
        let header = field(4)? as usize;
        let section = |offset: u32, len: u32, at: usize| -> Result<Vec<u8>, BtfError> {
            let start = header.checked_add(offset as usize).ok_or(BtfError::Malformed(at))?;
            let end = start.checked_add(len as usize).ok_or(BtfError::Malformed(at))?;
            Ok(blob.get(start..end).ok_or(BtfError::Malformed(at))?.to_vec())
        };
        let types = section(field(8)?, field(12)?, 8)?;
        let strings = section(field(16)?, field(20)?, 16)?;
        let mut offsets = vec![u32::MAX];
        let mut at = 0;
        while at < types.len() {
            offsets.push(at as u32);
            let info = word(&types, at + 4).ok_or(BtfError::Malformed(at))?;
            let body = body_bytes(info >> 24 & 0x1f, (info & 0xffff) as usize).ok_or(BtfError::Malformed(at))?;
            at += 12 + body;
            if at > types.len() {
                return Err(BtfError::Malformed(at));
            }
        }
        Ok(Self { types, strings, offsets })
    }

    fn get(&self, id: u32) -> Option<Type> {
        let at = *self.offsets.get(id as usize)?;
        if at == u32::MAX {
            return None;
        }
        let at = at as usize;
        Some(Type {
            name: word(&self.types, at)?,
            info: word(&self.types, at + 4)?,
            size_or_type: word(&self.types, at + 8)?,
            body: at + 12,
        })
    }

    fn name_is(&self, offset: u32, name: &str) -> bool {
        let Some(rest) = self.strings.get(offset as usize..) else { return false };
        rest.len() > name.len() && rest.starts_with(name.as_bytes()) && rest[name.len()] == 0
    }

    /// The types of this kind and name.
    fn named(&self, kind: u32, name: &str) -> impl Iterator<Item = (u32, Type)> {
        (1..self.offsets.len() as u32).filter_map(move |id| {
            let found = self.get(id)?;
            (found.kind() == kind && self.name_is(found.name, name)).then_some((id, found))
        })
    }

    /// The struct of this name that has all these fields. Several structs may share a name; fields of different ones must not be
    /// mixed.
    pub fn find_struct(&self, name: &str, fields: &[&str]) -> Option<Struct> {
        self.named(KIND_STRUCT, name)
            .map(|(id, found)| Struct { id, size_bytes: found.size_or_type })
            .find(|candidate| fields.iter().all(|field| self.field(*candidate, field).is_some()))
    }

    /// Byte offset of a field, given by a path such as `se.sum_exec_runtime`. Anonymous members are looked through.
    pub fn field(&self, of: Struct, path: &str) -> Option<u32> {
        let mut id = of.id;
        let mut offset = 0;
        for name in path.split('.') {
            let (inner, at) = self.member(id, name, 0)?;
            // A sum that no struct has is a malformed blob's.
            offset = at.checked_add(offset)?;
            id = inner;
        }
        Some(offset)
    }

    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let found = self.get(self.resolve(id)?)?;
        if depth > 8 || !matches!(found.kind(), KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for index in 0..found.len() {
            let at = found.body + index * 12;
            let (member_name, member_type) = (word(&self.types, at)?, word(&self.types, at + 4)?);
            let position = word(&self.types, at + 8)?;
            let bits = if found.bitfields() { position & 0x00ff_ffff } else { position };
            if member_name == 0 || self.name_is(member_name, "") {
                if let Some((inner, inner_at)) = self.member(member_type, name, depth + 1) {
                    return Some((inner, inner_at.checked_add(bits / 8)?));
                }
            } else if self.name_is(member_name, name) {
                return (bits % 8 == 0).then_some((member_type, bits / 8));
            }
        }
        None
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<u32> {
        for _ in 0..32 {
            let found = self.get(id)?;
            match found.kind() {
                KIND_TYPEDEF | 9 | 10 | 11 | 18 => id = found.size_or_type,
                _ => return Some(id),
            }
        }
        None
    }

    /// The value of an enumerator, by the name of its enumeration and its own.
    pub fn enumerator(&self, of: &str, name: &str) -> Option<u32> {
        let (_, found) = self.named(KIND_ENUM, of).next()?;
        (0..found.len()).find_map(|index| {
            let at = found.body + index * 8;
            self.name_is(word(&self.types, at)?, name).then(|| word(&self.types, at + 4)).flatten()
        })
    }

    /// The id of a function's type.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.named(KIND_FUNC, name).next().map(|(id, _)| id)
    }

    /// Offset of a per-CPU variable in the kernel's per-CPU section.
    pub fn per_cpu_variable(&self, name: &str) -> Option<u32> {
        let (_, section) = self.named(KIND_DATASEC, ".data..percpu").next()?;
        (0..section.len()).find_map(|index| {
            let at = section.body + index * 12;
            let variable = self.get(word(&self.types, at)?)?;
            self.name_is(variable.name, name).then(|| word(&self.types, at + 4)).flatten()
        })
    }

    /// Number of arguments that a BTF tracepoint hands to its program; `None`: there is no such tracepoint.
    pub fn tracepoint_args(&self, name: &str) -> Option<usize> {
        let (_, typedef) = self.named(KIND_TYPEDEF, &format!("btf_trace_{name}")).next()?;
        let pointer = self.get(typedef.size_or_type)?;
        let prototype = self.get(pointer.size_or_type)?;
        // The first parameter is the tracepoint's own data.
        (pointer.kind() == KIND_PTR && prototype.kind() == KIND_FUNC_PROTO).then(|| prototype.len().saturating_sub(1))
    }
}

/// Makes BTF blobs for tests.
#[cfg(test)]
pub mod testing {
    use super::{KIND_STRUCT, KIND_UNION};

    /// A blob in the making. Types are numbered from 1 in the order in which they are added.
    #[derive(Default)]
    pub struct Builder {
        types: Vec<u32>,
        strings: Vec<u8>,
        count: u32,
    }

    impl Builder {
        fn string(&mut self, text: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if text.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend_from_slice(text.as_bytes());
            self.strings.push(0);
            at
        }

        fn add(&mut self, words: &[u32]) -> u32 {
            self.types.extend_from_slice(words);
            self.count += 1;
            self.count
        }

        /// An integer.
        pub fn int(&mut self, name: &str, bytes: u32) -> u32 {
            let name = self.string(name);
            self.add(&[name, 1 << 24, bytes, bytes * 8])
        }

        /// An array of some type; its size is not kept.
        pub fn array(&mut self, of: u32, index: u32, length: u32) -> u32 {
            self.add(&[0, super::KIND_ARRAY << 24, 0, of, index, length])
        }

        /// A struct, or a union, of members given by name, type and byte offset.
        pub fn record(&mut self, name: &str, union: bool, bytes: u32, members: &[(&str, u32, u32)]) -> u32 {
            let kind = if union { KIND_UNION } else { KIND_STRUCT };
            let mut words = vec![self.string(name), kind << 24 | members.len() as u32, bytes];
            for (name, of, at) in members {
                words.extend([self.string(name), *of, at * 8]);
            }
            self.add(&words)
        }

        /// The blob.
        pub fn finish(self) -> Vec<u8> {
            let types: Vec<u8> = self.types.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut blob = vec![0x9f, 0xeb, 1, 0];
            for word in [24u32, 0, types.len() as u32, types.len() as u32, self.strings.len() as u32] {
                blob.extend_from_slice(&word.to_le_bytes());
            }
            blob.extend(types);
            blob.extend(self.strings);
            blob
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A blob with `struct outer { int a; union { struct { int b; }; }; struct inner in; }`, `struct inner { int x, y; }`.
    fn blob() -> Vec<u8> {
        let mut builder = testing::Builder::default();
        let int = builder.int("int", 4);
        let inner = builder.record("inner", false, 8, &[("x", int, 0), ("y", int, 4)]);
        let hidden = builder.record("", false, 8, &[("b", int, 0)]);
        let union = builder.record("", true, 8, &[("", hidden, 0)]);
        builder.record("outer", false, 24, &[("a", int, 0), ("", union, 8), ("in", inner, 16)]);
        builder.finish()
    }

    #[test]
    fn fields_are_found_through_anonymous_members_and_paths() {
        let btf = Btf::parse(&blob()).expect("a well-formed blob");
        let outer = btf.find_struct("outer", &["a", "b"]).expect("outer has a and b");
        assert_eq!(outer.size_bytes, 24);
        assert_eq!(btf.field(outer, "a"), Some(0));
        assert_eq!(btf.field(outer, "b"), Some(8), "inside an anonymous struct in an anonymous union");
        assert_eq!(btf.field(outer, "in.y"), Some(20));
        assert_eq!(btf.field(outer, "nothing"), None);
        assert!(btf.find_struct("outer", &["a", "missing"]).is_none(), "all fields or none");
    }

    proptest! {
        #[test]
        fn damaged_blobs_never_panic(cut in 0usize..400, at in 0usize..400, value: u8) {
            let mut bytes = blob();
            if at < bytes.len() { bytes[at] = value; }
            bytes.truncate(cut.min(bytes.len()));
            if let Ok(btf) = Btf::parse(&bytes)
                && let Some(outer) = btf.find_struct("outer", &[]) {
                let _ = btf.field(outer, "in.y");
                let _ = btf.tracepoint_args("x");
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            if bytes.len() > 1 { bytes[0] = 0x9f; bytes[1] = 0xeb; }
            let _ = Btf::parse(&bytes);
        }
    }
}
