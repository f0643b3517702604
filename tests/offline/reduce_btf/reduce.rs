//! Makes type information small: keeps the types that are asked for by name and what lies within them, in their order. Behind a pointer
//! nothing is kept, not even its type's name; elements of arrays are declared only, and enumerations that were not asked for have no
//! enumerators. Fields, their offsets, sizes and numbers of arguments are as before.
//!
//! Format: Documentation/bpf/btf.rst. What is malformed is an error.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};

const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

const MAGIC: u32 = 0xeb9f;
const HEADER_BYTES: u32 = 24;
/// The section of the per-CPU variables.
const PER_CPU: &str = ".data..percpu";
/// Stands for every pointer: the first type that is written.
const VOID_POINTER: u32 = 1;

/// What is kept, by name.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Structs, all of a name.
    pub structs: BTreeSet<String>,
    /// Enumerations.
    pub enums: BTreeSet<String>,
    /// Per-CPU variables.
    pub variables: BTreeSet<String>,
    /// Functions.
    pub functions: BTreeSet<String>,
    /// Type names of pointers to functions, such as `btf_trace_sched_switch`.
    pub typedefs: BTreeSet<String>,
}

/// Type information, in words.
struct Types<'a> {
    words: Vec<u32>,
    strings: &'a [u8],
    /// Where each type starts; index 0 is `void`, which is not written.
    starts: Vec<usize>,
}

impl<'a> Types<'a> {
    fn parse(blob: &'a [u8]) -> Result<Self> {
        let word = |at: usize| -> Result<u32> {
            let bytes = blob.get(at..at + 4).context("type information is cut off")?;
            Ok(u32::from_le_bytes(bytes.try_into()?))
        };
        ensure!(word(0)? & 0xffff == MAGIC, "this is no type information");
        let section = |at: usize| -> Result<&'a [u8]> {
            let start = word(4)? as usize + word(at)? as usize;
            blob.get(start..start + word(at + 4)? as usize).context("type information is cut off")
        };
        let (types, strings) = (section(8)?, section(16)?);
        let (chunks, _) = types.as_chunks::<4>();
        let words: Vec<u32> = chunks.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let mut starts = vec![usize::MAX];
        let mut at = 0;
        while at < words.len() {
            starts.push(at);
            let info = *words.get(at + 1).context("a type is cut off")?;
            at += 3 + body_words(info >> 24 & 0x1f, (info & 0xffff) as usize)?;
        }
        ensure!(at == words.len(), "the last type is cut off");
        Ok(Self { words, strings, starts })
    }

    /// A type's words.
    fn get(&self, id: u32) -> Result<&[u32]> {
        let id = id as usize;
        let start = *self.starts.get(id).filter(|_| id > 0).with_context(|| format!("there is no type {id}"))?;
        let end = self.starts.get(id + 1).copied().unwrap_or(self.words.len());
        Ok(&self.words[start..end])
    }

    fn kind(&self, id: u32) -> Result<u32> {
        Ok(self.get(id)?[1] >> 24 & 0x1f)
    }

    fn string(&self, at: u32) -> Result<&'a str> {
        let rest = self.strings.get(at as usize..).context("a name lies outside of the strings")?;
        let bytes = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        str::from_utf8(bytes).context("a name is not text")
    }

    fn name(&self, id: u32) -> Result<&'a str> {
        self.string(self.get(id)?[0])
    }
}

/// Words behind a type's first three.
fn body_words(kind: u32, len: usize) -> Result<usize> {
    Ok(match kind {
        1 | VAR | 17 => 1,
        ARRAY => 3,
        STRUCT | UNION | DATASEC | ENUM64 => len * 3,
        ENUM | FUNC_PROTO => len * 2,
        PTR | FWD..=FUNC | 16 | TYPE_TAG => 0,
        other => anyhow::bail!("types of kind {other} are not known here"),
    })
}

/// The types that are kept.
struct Kept<'a> {
    types: &'a Types<'a>,
    /// As they are.
    whole: BTreeSet<u32>,
    /// Declared only.
    declared: BTreeSet<u32>,
    /// Per-CPU variables.
    variables: BTreeSet<u32>,
}

impl Kept<'_> {
    /// Keeps a type with what lies in it; `is_within`: its own parts count too, since fields of it are looked for.
    fn keep(&mut self, id: u32, is_within: bool) -> Result<()> {
        if id == 0 {
            return Ok(());
        }
        let types = self.types;
        let words = types.get(id)?;
        match types.kind(id)? {
            PTR => {}
            STRUCT | UNION if is_within => {
                if self.whole.insert(id) {
                    words[3..].chunks_exact(3).try_for_each(|member| self.keep(member[1], true))?;
                }
            }
            STRUCT | UNION | ENUM | ENUM64 => drop(self.declared.insert(id)),
            // Not asked whether it was here before: then it may have been only declared.
            TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => {
                self.whole.insert(id);
                self.keep(words[2], is_within)?;
            }
            ARRAY => {
                self.whole.insert(id);
                self.keep(words[3], false)?;
                self.keep(words[4], false)?;
            }
            FUNC => {
                self.whole.insert(id);
                self.keep(words[2], false)?;
            }
            FUNC_PROTO => {
                self.whole.insert(id);
                self.keep(words[2], false)?;
                words[3..].chunks_exact(2).try_for_each(|argument| self.keep(argument[1], false))?;
            }
            _ => drop(self.whole.insert(id)),
        }
        Ok(())
    }

    /// Keeps what is asked for by name.
    fn keep_wanted(&mut self, wanted: &Wanted) -> Result<()> {
        let types = self.types;
        for id in 1..types.starts.len() as u32 {
            let (kind, name) = (types.kind(id)?, types.name(id)?);
            match kind {
                STRUCT if wanted.structs.contains(name) => self.keep(id, true)?,
                ENUM | ENUM64 if wanted.enums.contains(name) => drop(self.whole.insert(id)),
                FUNC if wanted.functions.contains(name) => self.keep(id, false)?,
                TYPEDEF if wanted.typedefs.contains(name) => self.keep_pointer_to_function(id)?,
                DATASEC if name == PER_CPU => {
                    self.whole.insert(id);
                    for entry in types.get(id)?[3..].chunks_exact(3) {
                        if wanted.variables.contains(types.name(entry[0])?) {
                            self.variables.insert(entry[0]);
                            self.whole.insert(entry[0]);
                            self.keep(types.get(entry[0])?[2], false)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The one pointer that is followed.
    fn keep_pointer_to_function(&mut self, id: u32) -> Result<()> {
        let pointer = self.types.get(id)?[2];
        ensure!(self.types.kind(pointer)? == PTR, "{} is no pointer", self.types.name(id)?);
        self.whole.extend([id, pointer]);
        self.keep(self.types.get(pointer)?[2], false)
    }
}

/// What is written.
struct Output<'a> {
    kept: Kept<'a>,
    /// Numbers by which the types that are kept are known from now on.
    numbers: BTreeMap<u32, u32>,
    words: Vec<u32>,
    strings: Vec<u8>,
    places: HashMap<&'a str, u32>,
}

impl<'a> Output<'a> {
    fn string(&mut self, text: &'a str) -> u32 {
        let strings = &mut self.strings;
        *self.places.entry(text).or_insert_with(|| {
            let at = strings.len() as u32;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        })
    }

    fn number(&self, id: u32) -> Result<u32> {
        match self.numbers.get(&id) {
            _ if id == 0 => Ok(0),
            Some(number) => Ok(*number),
            None if self.kept.types.kind(id)? == PTR => Ok(VOID_POINTER),
            None => anyhow::bail!("type {id} is needed and was not kept"),
        }
    }

    fn write(&mut self, id: u32) -> Result<()> {
        let types = self.kept.types;
        let (kind, from) = (types.kind(id)?, types.get(id)?);
        let name = self.string(types.name(id)?);
        if !self.kept.whole.contains(&id) {
            let words = match kind {
                STRUCT => [name, FWD << 24, 0],
                UNION => [name, FWD << 24 | 1 << 31, 0],
                _ => [name, from[1] & !0xffff, from[2]],
            };
            self.words.extend(words);
            return Ok(());
        }
        let mut words = from.to_vec();
        words[0] = name;
        match kind {
            PTR | TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG | FUNC | FUNC_PROTO | VAR => {
                words[2] = self.number(from[2])?;
            }
            _ => {}
        }
        match kind {
            ARRAY => (words[3], words[4]) = (self.number(from[3])?, self.number(from[4])?),
            STRUCT | UNION => {
                for member in words[3..].chunks_exact_mut(3) {
                    member[0] = self.string(types.string(member[0])?);
                    member[1] = self.number(member[1])?;
                }
            }
            ENUM | ENUM64 => {
                for enumerator in words[3..].chunks_exact_mut(if kind == ENUM { 2 } else { 3 }) {
                    enumerator[0] = self.string(types.string(enumerator[0])?);
                }
            }
            FUNC_PROTO => {
                for argument in words[3..].chunks_exact_mut(2) {
                    // How many and of which types is what counts; one that is named is told from the mark of variable arguments.
                    argument[0] = self.string(types.string(argument[0])?);
                    argument[1] = self.number(argument[1])?;
                }
            }
            DATASEC => {
                let entries = from[3..].chunks_exact(3).filter(|entry| self.kept.variables.contains(&entry[0]));
                let entries: Vec<&[u32]> = entries.collect();
                words.truncate(3);
                words[1] = DATASEC << 24 | entries.len() as u32;
                for entry in entries {
                    words.extend([self.number(entry[0])?, entry[1], entry[2]]);
                }
            }
            _ => {}
        }
        self.words.extend(words);
        Ok(())
    }

    fn blob(&self) -> Vec<u8> {
        let type_bytes = self.words.len() as u32 * 4;
        let header = [MAGIC | 1 << 16, HEADER_BYTES, 0, type_bytes, type_bytes, self.strings.len() as u32];
        let words = header.iter().chain(&self.words).flat_map(|word| word.to_le_bytes());
        words.chain(self.strings.iter().copied()).collect()
    }
}

/// The types that are wanted, and what lies within them.
pub fn reduce(blob: &[u8], wanted: &Wanted) -> Result<Vec<u8>> {
    let types = Types::parse(blob)?;
    let none = BTreeSet::new;
    let mut kept = Kept { types: &types, whole: none(), declared: none(), variables: none() };
    kept.keep_wanted(wanted)?;
    let ids: BTreeSet<u32> = kept.whole.union(&kept.declared).copied().collect();
    let numbers = ids.iter().zip(VOID_POINTER + 1..).map(|(id, number)| (*id, number)).collect();
    let mut output = Output { kept, numbers, words: Vec::new(), strings: Vec::new(), places: HashMap::new() };
    output.string("");
    output.words.extend([0, PTR << 24, 0]);
    ids.into_iter().try_for_each(|id| output.write(id))?;
    Ok(output.blob())
}
