//! Checked safetensors files: nothing in one is believed before it has been compared with the file.
//!
//! The format (<https://github.com/huggingface/safetensors#format>) is eight bytes of header length, a
//! JSON header that gives each tensor's dtype, shape and byte range, then the data. The rules are those of
//! the `safetensors` crate, whose types are used here. They are checked here because its errors don't name
//! the tensor or the numbers, and because a header that lies must be refused before the data is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
#[cfg(feature = "files")]
use std::fs::File;
use std::io::Read;
#[cfg(feature = "files")]
use std::io::Write;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
#[cfg(feature = "files")]
use crate::file::output;
use crate::file::shards::Index;
use crate::file::unique::Unique;
use crate::text::abridged;

/// Limits the bytes of a header, as the `safetensors` crate does.
const MAX_HEADER: usize = 100_000_000;
/// Counts the bytes of the header's length, which is also the alignment that a header is padded to.
const LENGTH_BYTES: usize = 8;
/// Counts the bytes read to recognise a file of another kind.
const MAGIC_BYTES: usize = 64;
/// Names the header's key that holds metadata and therefore can't name a tensor.
const METADATA: &str = "__metadata__";
/// Lists the dtypes that [`Weights::float`] converts.
const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::BF16];
/// Lists the dtypes that codes and shifts are kept in.
const CODES: &[Dtype] = &[Dtype::U8, Dtype::I32];

/// Holds a safetensors file in memory, whose header has been checked against its data; or several, the shards of one
/// checkpoint.
#[derive(Clone)]
pub struct Weights {
    path: PathBuf,
    /// The file, or the shards one after the other, then the values of replaced tensors.
    bytes: Vec<u8>,
    file_len: usize,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Tensor>,
}

/// Says what a tensor is and where its values lie.
#[derive(Clone)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Where the bytes begin and end, one piece after the other: one in a file, several where tensors were joined.
    pieces: Vec<(usize, usize)>,
}

impl From<TensorInfo> for Tensor {
    fn from(info: TensorInfo) -> Self {
        Self {
            dtype: info.dtype,
            shape: info.shape,
            pieces: vec![info.data_offsets],
        }
    }
}

impl Weights {
    #[cfg(feature = "files")]
    /// Reads and checks the file at `path`, or, where that is an [`Index`], the shards beside it.
    ///
    /// # Errors
    /// [`Error::Input`] if the file can't be read, and those of [`from_bytes`](Self::from_bytes), [`Index::open`] and
    /// [`from_shards`](Self::from_shards).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if Index::is_named(path) {
            let index = Index::open(path)?;
            index.check_present(path)?;
            return Self::from_shards(path, &index, |shard| open(&path.with_file_name(shard)));
        }
        let mut bytes = Vec::new();
        let header = open(path).and_then(|(mut file, len)| append(&mut bytes, &mut file, len));
        let header = header.map_err(|problem| Error::input(path, problem))?;
        Ok(Self::new(path, bytes, header))
    }

    /// Reads and checks a file that is in memory and goes by `path`.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is of another kind (the cure is named), or its header and data disagree in any way:
    /// overlapping tensors, holes, a size that is not its shape's, bytes missing or left over.
    pub fn from_bytes(path: impl AsRef<Path>, file: &[u8]) -> Result<Self> {
        let (path, mut bytes) = (path.as_ref(), Vec::new());
        let header = append(&mut bytes, &mut &file[..], file.len())
            .map_err(|problem| Error::input(path, problem))?;
        Ok(Self::new(path, bytes, header))
    }

    /// Reads and checks the shards of the `index` at `path`. `open` opens the shard of a name, and tells its length.
    ///
    /// # Errors
    /// Those of [`from_bytes`](Self::from_bytes), about the shard; a tensor that isn't in the shard that the index says, or in another
    /// one too; metadata in which shards differ.
    pub fn from_shards<R: Read>(
        path: impl AsRef<Path>,
        index: &Index,
        mut open: impl FnMut(&str) -> std::result::Result<(R, usize), String>,
    ) -> Result<Self> {
        let (path, mut bytes, mut whole) = (path.as_ref(), Vec::new(), Header::default());
        for shard in index.files() {
            let problem = |problem: String| Error::input(path.with_file_name(shard), problem);
            let header = open(shard).and_then(|(mut file, len)| append(&mut bytes, &mut file, len));
            let header = header.map_err(problem)?;
            whole.join(header, shard, index).map_err(problem)?;
        }
        let mut tensors = index.tensors();
        match tensors.find(|(name, _)| !whole.tensors.contains_key(*name)) {
            Some((name, shard)) => Err(Error::input(
                path.with_file_name(shard),
                format!("lacks tensor `{name}`, which the index says is in it"),
            )),
            None => Ok(Self::new(path, bytes, whole)),
        }
    }

    fn new(path: &Path, bytes: Vec<u8>, header: Header) -> Self {
        Self {
            path: path.to_owned(),
            file_len: bytes.len(),
            bytes,
            metadata: header.metadata,
            tensors: header
                .tensors
                .into_iter()
                .map(|(name, info)| (name, info.into()))
                .collect(),
        }
    }

    /// Returns the file's path, as it was opened; that of the index, where there are shards.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames each tensor that `newer` has a name for; the others keep theirs.
    ///
    /// # Errors
    /// [`Error::Input`] if two tensors would have one name.
    pub fn rename(&mut self, newer: impl Fn(&str) -> Option<String>) -> Result<()> {
        let mut tensors = BTreeMap::new();
        let mut earlier = BTreeMap::new();
        for (name, info) in std::mem::take(&mut self.tensors) {
            let renamed = newer(&name).unwrap_or_else(|| name.clone());
            tensors.insert(renamed.clone(), info);
            if let Some(other) = earlier.insert(renamed.clone(), name.clone()) {
                let problem =
                    format!("tensors `{other}` and `{name}` would both be named `{renamed}`");
                return Err(Error::input(&self.path, problem));
            }
        }
        self.tensors = tensors;
        Ok(())
    }

    /// Puts the tensors `parts` in each other's place as one named `whole`, joined along their first dimension. No value is
    /// copied.
    ///
    /// # Errors
    /// [`Error::Input`] if a part is missing, if they differ in dtype or in another dimension, if they aren't of floats, or
    /// if there is a tensor named `whole`.
    ///
    /// # Panics
    /// If there are no parts.
    pub fn join(&mut self, whole: &str, parts: &[&str]) -> Result<()> {
        if self.tensors.contains_key(whole) {
            let problem = format!(
                "has both `{whole}` and its parts, `{}` among them",
                parts[0]
            );
            return Err(Error::input(&self.path, problem));
        }
        let mut joined: Option<Tensor> = None;
        for &part in parts {
            let tensor = self.tensor(part)?;
            if !FLOATS.contains(&tensor.dtype) {
                return Err(self.wrong_dtype(part, tensor, "F32, F16 or BF16"));
            }
            if tensor.shape.is_empty() {
                let problem =
                    format!("tensor `{part}` is one value, where a part of `{whole}` is expected");
                return Err(Error::input(&self.path, problem));
            }
            let Some(before) = &mut joined else {
                joined = Some(tensor.clone());
                continue;
            };
            if tensor.dtype != before.dtype || tensor.shape[1..] != before.shape[1..] {
                let problem = format!(
                    "tensor `{part}` is {} of shape {:?}, `{}` {} of shape {:?}, where both are parts of `{whole}`",
                    tensor.dtype, tensor.shape, parts[0], before.dtype, before.shape
                );
                return Err(Error::input(&self.path, problem));
            }
            before.shape[0] += tensor.shape[0];
            before.pieces.extend(&tensor.pieces);
        }
        for part in parts {
            self.tensors.remove(*part);
        }
        let joined = joined.expect("at least one part");
        self.tensors.insert(whole.to_owned(), joined);
        Ok(())
    }

    /// Puts as many equal parts of the tensor `whole`, cut along its first dimension, in its place as there are names in
    /// `parts`: the inverse of [`join`](Self::join). No value is copied.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such tensor, if its first dimension has no such parts, or if there is a tensor of
    /// a part's name.
    ///
    /// # Panics
    /// If there are no parts.
    pub fn split(&mut self, whole: &str, parts: &[&str]) -> Result<()> {
        let Tensor {
            dtype,
            mut shape,
            pieces,
        } = self.tensor(whole)?.clone();
        let count = parts.len();
        if !shape.first().is_some_and(|rows| rows.is_multiple_of(count)) {
            let problem = format!(
                "tensor `{whole}` is of shape {shape:?}, where {count} equal parts are expected"
            );
            return Err(Error::input(&self.path, problem));
        }
        if let Some(part) = parts.iter().find(|part| self.tensors.contains_key(**part)) {
            let problem = format!("has both `{whole}` and `{part}`, which is a part of it");
            return Err(Error::input(&self.path, problem));
        }
        shape[0] /= count;
        let bytes: usize = pieces.iter().map(|(start, end)| end - start).sum();
        self.tensors.remove(whole);
        for (place, part) in parts.iter().enumerate() {
            let (first, last) = (bytes / count * place, bytes / count * (place + 1));
            let mut passed = 0;
            let within = |&(start, end): &(usize, usize)| {
                let before = passed;
                passed += end - start;
                let (from, to) = (before.max(first), passed.min(last));
                (from < to).then(|| (start + from - before, start + to - before))
            };
            let tensor = Tensor {
                dtype,
                shape: shape.clone(),
                pieces: pieces.iter().filter_map(within).collect(),
            };
            self.tensors.insert((*part).to_owned(), tensor);
        }
        Ok(())
    }

    /// Leaves out the tensors whose names aren't `kept`.
    pub fn retain(&mut self, kept: impl Fn(&str) -> bool) {
        self.tensors.retain(|name, _| kept(name));
    }

    /// Gives a tensor of the file other values, in another shape. The file itself stays as it is.
    ///
    /// # Panics
    /// If there is no such tensor, or if the shape is not that of the values.
    pub fn replace(&mut self, name: &str, shape: Vec<usize>, values: &[f32]) {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        let start = self.bytes.len();
        let values: &[u8] = bytemuck::cast_slice(values);
        self.bytes.reserve_exact(values.len());
        self.bytes.extend_from_slice(values);
        let tensor = self.tensors.get_mut(name);
        *tensor.expect("a tensor of the file") = Tensor {
            dtype: Dtype::F32,
            shape,
            pieces: vec![(start, start + values.len())],
        };
    }

    /// Counts the bytes of the whole file, or of all shards.
    pub fn file_len(&self) -> usize {
        self.file_len
    }

    /// Returns the metadata strings of the header; empty if it has none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Returns SHA-256 of the whole file, as it was opened, in lower-case hex; of shards one after the other, in the
    /// order of their names.
    pub fn sha256(&self) -> String {
        use fmt::Write;
        Sha256::digest(&self.bytes[..self.file_len])
            .iter()
            .fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").expect("a String takes every write");
                hex
            })
    }

    /// Returns the names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns the shape of tensor `name`, or `None` if the file has no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    /// Reads tensor `name` (F32, F16 or BF16) in row-major order, converted to f32, which holds all three exactly.
    ///
    /// # Errors
    /// [`Error::Input`] if the tensor is missing, has another dtype or holds a NaN or an infinity.
    pub fn float(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        let mut values = Vec::with_capacity(tensor.shape.iter().product());
        for &(start, end) in &tensor.pieces {
            let bytes = &self.bytes[start..end];
            match tensor.dtype {
                Dtype::F32 => values.extend(elements(bytes).map(f32::from_le_bytes)),
                Dtype::F16 => {
                    values.extend(elements(bytes).map(|raw| f16::from_le_bytes(raw).to_f32()));
                }
                Dtype::BF16 => {
                    values.extend(elements(bytes).map(|raw| bf16::from_le_bytes(raw).to_f32()));
                }
                _ => return Err(self.wrong_dtype(name, tensor, "F32, F16 or BF16")),
            }
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let problem = format!(
                "tensor `{name}` of shape {:?} holds {} at flat index {index}, where every value must be finite",
                tensor.shape, values[index]
            );
            return Err(Error::input(&self.path, problem));
        }
        Ok(values)
    }

    /// Returns the bytes of tensor `name` (U8): packed codes.
    ///
    /// # Errors
    /// [`Error::Input`] if the tensor is missing or has another dtype.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.whole(name, Dtype::U8)
    }

    /// Reads tensor `name` (I32) in row-major order.
    ///
    /// # Errors
    /// [`Error::Input`] if the tensor is missing or has another dtype.
    pub fn integers(&self, name: &str) -> Result<Vec<i32>> {
        let bytes = self.whole(name, Dtype::I32)?;
        Ok(elements(bytes).map(i32::from_le_bytes).collect())
    }

    /// Checks that the file holds exactly the expected tensors (name, shape): `floats`, and `codes` of the
    /// integer types that [`Weights::bytes`] and [`Weights::integers`] read; besides them only such as
    /// `tolerated` says yes to.
    ///
    /// # Errors
    /// One [`Error::Input`] for all that is missing, unexpected, of another shape or of an unusable dtype.
    /// Long lists are cut, with a count.
    pub fn check(
        &self,
        floats: &[(String, Vec<usize>)],
        codes: &[(String, Vec<usize>)],
        tolerated: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let (mut missing, mut misshapen, mut unusable) = (Vec::new(), Vec::new(), Vec::new());
        let expected = || {
            let floats = floats.iter().map(|tensor| (tensor, FLOATS));
            floats.chain(codes.iter().map(|tensor| (tensor, CODES)))
        };
        for ((name, shape), dtypes) in expected() {
            let Some(tensor) = self.tensors.get(name) else {
                missing.push(format!("`{name}`"));
                continue;
            };
            if tensor.shape != *shape {
                misshapen.push(format!("`{name}` {:?} for {shape:?}", tensor.shape));
            }
            if !dtypes.contains(&tensor.dtype) {
                let dtypes: Vec<String> = dtypes.iter().map(Dtype::to_string).collect();
                unusable.push(format!(
                    "`{name}` {} for {}",
                    tensor.dtype,
                    dtypes.join(" or ")
                ));
            }
        }
        let known: BTreeSet<&str> = expected().map(|((name, _), _)| name.as_str()).collect();
        let unexpected: Vec<String> = self
            .names()
            .filter(|name| !known.contains(name) && !tolerated(name))
            .map(|name| format!("`{name}`"))
            .collect();

        let problems: Vec<String> = [
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape (found for expected)", misshapen),
            ("of an unusable dtype (found for expected)", unusable),
        ]
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{} {what}: {}", names.len(), abridged(names)))
        .collect();
        if problems.is_empty() {
            return Ok(());
        }
        let problem = format!("tensors don't match: {}", problems.join("; "));
        Err(Error::input(&self.path, problem))
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::input(&self.path, format!("there is no tensor named `{name}`")))
    }

    /// Returns the bytes of a tensor of this dtype, in which none are joined.
    fn whole(&self, name: &str, dtype: Dtype) -> Result<&[u8]> {
        let tensor = self.tensor(name)?;
        if tensor.dtype != dtype {
            return Err(self.wrong_dtype(name, tensor, &dtype.to_string()));
        }
        let (start, end) = tensor.pieces[0];
        Ok(&self.bytes[start..end])
    }

    fn wrong_dtype(&self, name: &str, tensor: &Tensor, expected: &str) -> Error {
        let problem = format!(
            "tensor `{name}` is {}, where {expected} is expected",
            tensor.dtype
        );
        Error::input(&self.path, problem)
    }
}

/// Returns the little-endian elements of `N` bytes each. A checked tensor has no remainder.
fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Holds a safetensors header, names in order.
#[derive(Clone, Default)]
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl<'de> Deserialize<'de> for Header {
    /// Reads a header and, unlike a derived map, refuses a name that occurs twice, as the format demands.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Header, A::Error> {
                let mut metadata = None;
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let repeated = if name == METADATA {
                        let Unique(strings) = map.next_value()?;
                        metadata.replace(strings).is_some()
                    } else {
                        tensors.insert(name.clone(), map.next_value()?).is_some()
                    };
                    if repeated {
                        return Err(A::Error::custom(format!("`{name}` occurs twice")));
                    }
                }
                Ok(Header {
                    metadata: metadata.unwrap_or_default(),
                    tensors,
                })
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

impl Header {
    /// Adds the tensors and metadata of the file `shard` of `index`.
    fn join(&mut self, other: Self, shard: &str, index: &Index) -> std::result::Result<(), String> {
        for (name, info) in other.tensors {
            match index.shard(&name) {
                Some(told) if told == shard => self.tensors.insert(name, info),
                Some(told) => {
                    return Err(format!(
                        "has tensor `{name}`, which the index says is in {told}"
                    ));
                }
                None => return Err(format!("has tensor `{name}`, which the index doesn't have")),
            };
        }
        for (key, value) in other.metadata {
            let known = self
                .metadata
                .entry(key.clone())
                .or_insert_with(|| value.clone());
            if *known != value {
                return Err(format!(
                    "has another metadata `{key}` than an earlier shard"
                ));
            }
        }
        Ok(())
    }

    /// Counts the bytes of data that the header describes, or says what is wrong with its byte ranges.
    fn data_len(&self) -> std::result::Result<usize, String> {
        let mut by_offset: Vec<_> = self.tensors.iter().collect();
        by_offset.sort_by_key(|(_, info)| info.data_offsets);
        by_offset.into_iter().try_fold(0, |previous_end, (name, info)| {
            let (start, end) = info.data_offsets;
            if start != previous_end {
                return Err(format!(
                    "tensor `{name}` begins at data byte {start} where byte {previous_end} is next: tensors may neither overlap nor leave a hole"
                ));
            }
            let size = byte_len(info);
            if size.is_none() || size != end.checked_sub(start) {
                let needed = size.map_or("no whole number of".to_owned(), |size| size.to_string());
                return Err(format!(
                    "tensor `{name}` is at data bytes {start}..{end}, but {} of shape {:?} takes {needed} bytes",
                    info.dtype, info.shape
                ));
            }
            Ok(end)
        })
    }
}

/// Counts the bytes that a tensor takes; `None` if they are too many to count or no whole number.
fn byte_len(info: &TensorInfo) -> Option<usize> {
    let bits = info
        .shape
        .iter()
        .try_fold(info.dtype.bitsize(), |bits, &size| bits.checked_mul(size))?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

#[cfg(feature = "files")]
/// Opens the file at `path`, and tells its length.
fn open(path: &Path) -> std::result::Result<(File, usize), String> {
    // Looked at before it is opened: opening a pipe would wait for a writer.
    let found = path
        .metadata()
        .map_err(|error| format!("can't be opened: {error}"))?;
    if found.is_dir() {
        return Err("is a folder, where a .safetensors file is expected".into());
    }
    if !found.is_file() {
        return Err("is not a regular file".into());
    }
    let file = File::open(path).map_err(|error| format!("can't be opened: {error}"))?;
    let len = usize::try_from(found.len()).map_err(|_| "is too large for this machine")?;
    Ok((file, len))
}

/// Reads a file of `file_len` bytes to the end of `bytes`, and stops where the header or its length turns out wrong.
/// The returned header's byte ranges are those in `bytes`.
fn append(
    bytes: &mut Vec<u8>,
    file: &mut impl Read,
    file_len: usize,
) -> std::result::Result<Header, String> {
    let start = bytes.len();
    extend(bytes, start, file, file_len.min(MAGIC_BYTES))?;
    // Only what fails as a safetensors file is compared with other kinds: a header of 640 bytes, say, makes
    // a good file begin like a pickle.
    let explained = |problem: String, bytes: &[u8]| match other_kind(bytes) {
        Some(kind) => format!("is {kind}"),
        None => problem,
    };
    let data_start = data_start(&bytes[start..], file_len)
        .map_err(|problem| explained(problem, &bytes[start..]))?;
    extend(bytes, start, file, data_start)?;
    let mut header: Header = serde_json::from_slice(&bytes[start..][LENGTH_BYTES..data_start])
        .map_err(|error| {
            let problem = format!("the header is not that of a safetensors file: {error}");
            explained(problem, &bytes[start..])
        })?;

    let data_len = header.data_len()?;
    let expected = data_start
        .checked_add(data_len)
        .ok_or("the header describes more data than can be addressed")?;
    if expected != file_len {
        return Err(format!(
            "the header describes {expected} bytes in all, the file has {file_len}: it is {}",
            if expected > file_len {
                "truncated"
            } else {
                "followed by something else"
            }
        ));
    }
    extend(bytes, start, file, file_len)?;
    for info in header.tensors.values_mut() {
        let (first, end) = info.data_offsets;
        info.data_offsets = (start + data_start + first, start + data_start + end);
    }
    Ok(header)
}

/// Reads on until `bytes` has `len` bytes of the file that begins at `start`, if it has fewer.
fn extend(
    bytes: &mut Vec<u8>,
    start: usize,
    file: &mut impl Read,
    len: usize,
) -> std::result::Result<(), String> {
    let more = len.saturating_sub(bytes.len() - start);
    bytes
        .try_reserve_exact(more)
        .map_err(|_| format!("{len} bytes don't fit in this machine's memory"))?;
    file.take(more as u64)
        .read_to_end(bytes)
        .map_err(|error| format!("can't be read: {error}"))?;
    let found = bytes.len() - start;
    if found < len {
        return Err(format!("shrank to {found} bytes while it was read"));
    }
    Ok(())
}

/// Returns where the data starts, by the header's length at the start of a file of `file_len` bytes.
fn data_start(start: &[u8], file_len: usize) -> std::result::Result<usize, String> {
    let Some(length) = start.first_chunk::<LENGTH_BYTES>() else {
        return Err(match file_len {
            0 => "is empty".into(),
            _ => format!(
                "has {file_len} bytes, too few for a safetensors file's header length ({LENGTH_BYTES} bytes)"
            ),
        });
    };
    let length = u64::from_le_bytes(*length);
    match usize::try_from(length) {
        Ok(header) if header > MAX_HEADER => Err(format!(
            "is not a safetensors file: its header length would be {length} bytes, where at most {MAX_HEADER} are allowed"
        )),
        Ok(header) if header > file_len - LENGTH_BYTES => Err(format!(
            "is truncated: the header takes {length} bytes, only {} follow its length",
            file_len - LENGTH_BYTES
        )),
        Ok(header) => Ok(LENGTH_BYTES + header),
        Err(_) => Err(format!(
            "is not a safetensors file: its header length would be {length} bytes"
        )),
    }
}

/// Says what else a file that starts like this is, with the cure.
fn other_kind(start: &[u8]) -> Option<&'static str> {
    const PICKLE_PROTOCOLS: std::ops::RangeInclusive<u8> = 2..=5;
    let text = start.trim_ascii_start().to_ascii_lowercase();
    if start.starts_with(b"version https://git-lfs") {
        Some("a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`")
    } else if start.starts_with(b"PK\x03\x04") {
        Some(
            "a zip archive, such as PyTorch's .pt and .pth or NumPy's .npz; convert it with Python: `safetensors.torch.save_file(torch.load(IN, weights_only=True), OUT)`",
        )
    } else if matches!(start, [0x80, protocol, ..] if PICKLE_PROTOCOLS.contains(protocol)) {
        Some(
            "a Python pickle, such as PyTorch's older .pt and .pth; convert it with Python: `safetensors.torch.save_file(torch.load(IN, weights_only=True), OUT)`",
        )
    } else if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") {
        Some("an HTML page, not the weights themselves; download the file behind it")
    } else if text.starts_with(b"{") {
        Some("JSON text, where a .safetensors file, or the .index.json of its shards, is expected")
    } else {
        None
    }
}

/// Holds a tensor to write: its shape, and its elements in row-major order.
pub enum TensorData {
    /// 32-bit floats.
    F32 {
        /// Sizes, outermost first.
        shape: Vec<usize>,
        /// As many elements as the shape has.
        data: Vec<f32>,
    },
    /// Bytes: packed codes.
    U8 {
        /// Sizes, outermost first.
        shape: Vec<usize>,
        /// As many elements as the shape has.
        data: Vec<u8>,
    },
    /// 32-bit integers.
    I32 {
        /// Sizes, outermost first.
        shape: Vec<usize>,
        /// As many elements as the shape has.
        data: Vec<i32>,
    },
}

impl TensorData {
    fn dtype(&self) -> Dtype {
        match self {
            Self::F32 { .. } => Dtype::F32,
            Self::U8 { .. } => Dtype::U8,
            Self::I32 { .. } => Dtype::I32,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::F32 { shape, .. } | Self::U8 { shape, .. } | Self::I32 { shape, .. } => shape,
        }
    }

    /// Returns the elements as they lie in memory: little-endian, like the format and every GPU host.
    fn bytes(&self) -> &[u8] {
        match self {
            Self::F32 { data, .. } => bytemuck::cast_slice(data),
            Self::U8 { data, .. } => data,
            Self::I32 { data, .. } => bytemuck::cast_slice(data),
        }
    }
}

/// Writes a safetensors file: the same tensors and metadata always give the same bytes.
///
/// The file appears under its name only when it is complete, so a failure leaves whatever was there before.
///
/// # Errors
/// [`Error::Input`] if a name occurs twice or is reserved, if a shape and its data disagree, or if the
/// folder can't be written to.
#[cfg(feature = "files")]
pub fn save(
    path: impl AsRef<Path>,
    tensors: Vec<(String, TensorData)>,
    metadata: BTreeMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let (header, tensors) =
        in_order(tensors, &metadata).map_err(|problem| Error::input(path, problem))?;
    output::write(path, |file| {
        file.write_all(&header)?;
        tensors
            .iter()
            .try_for_each(|(_, tensor)| file.write_all(tensor.bytes()))
    })
}

/// Returns the bytes of the file that `save` writes.
///
/// # Errors
/// A name that occurs twice or is reserved, a shape that its data disagree with, a header longer than readers take.
pub fn to_bytes(
    tensors: Vec<(String, TensorData)>,
    metadata: BTreeMap<String, String>,
) -> std::result::Result<Vec<u8>, String> {
    let (mut bytes, tensors) = in_order(tensors, &metadata)?;
    for (_, tensor) in &tensors {
        bytes.extend_from_slice(tensor.bytes());
    }
    Ok(bytes)
}

/// Holds tensors by their names.
type NamedTensors = Vec<(String, TensorData)>;

/// Brings tensors into the order of a file, and returns its header before them.
fn in_order(
    mut tensors: NamedTensors,
    metadata: &BTreeMap<String, String>,
) -> std::result::Result<(Vec<u8>, NamedTensors), String> {
    // The widest elements first keep every tensor aligned, as the `safetensors` crate does; names break ties.
    tensors.sort_by(|(left_name, left), (right_name, right)| {
        (right.dtype().bitsize(), left_name).cmp(&(left.dtype().bitsize(), right_name))
    });
    Ok((header_bytes(&tensors, metadata)?, tensors))
}

/// Returns the header of `tensors` in the order of their data, with its length before it and padded behind it.
fn header_bytes(
    tensors: &[(String, TensorData)],
    metadata: &BTreeMap<String, String>,
) -> std::result::Result<Vec<u8>, String> {
    /// Puts metadata first, so that a glance at the file's start shows it.
    #[derive(serde::Serialize)]
    struct Entries<'a> {
        #[serde(rename = "__metadata__", skip_serializing_if = "BTreeMap::is_empty")]
        metadata: &'a BTreeMap<String, String>,
        #[serde(flatten)]
        tensors: BTreeMap<&'a str, TensorInfo>,
    }

    let mut entries = Entries {
        metadata,
        tensors: BTreeMap::new(),
    };
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.bytes().len();
        let info = TensorInfo {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            data_offsets: (start, end),
        };
        if byte_len(&info) != Some(end - start) {
            return Err(format!(
                "tensor `{name}` of shape {:?} can't be written with {} bytes of {}",
                info.shape,
                end - start,
                info.dtype
            ));
        }
        if name == METADATA || entries.tensors.insert(name, info).is_some() {
            return Err(format!("tensor name `{name}` is reserved or occurs twice"));
        }
    }

    let mut bytes = vec![0; LENGTH_BYTES];
    entries
        .serialize(&mut serde_json::Serializer::new(&mut bytes))
        .map_err(|error| error.to_string())?;
    bytes.resize(bytes.len().next_multiple_of(LENGTH_BYTES), b' ');
    let header = bytes.len() - LENGTH_BYTES;
    if header > MAX_HEADER {
        return Err(format!(
            "the header would have {header} bytes, where readers take at most {MAX_HEADER}"
        ));
    }
    let length = header as u64;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;
    use safetensors::SafeTensors;
    use tempfile::TempDir;

    /// A file's bytes from its header's text and its data.
    fn container(header: &str, data: &[u8]) -> Vec<u8> {
        let length = header.len() as u64;
        [&length.to_le_bytes(), header.as_bytes(), data].concat()
    }

    /// `contents` as a file. The folder vanishes with the first value.
    fn file(contents: &[u8]) -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, contents).unwrap();
        (folder, path)
    }

    fn opened(contents: &[u8]) -> Weights {
        let (_folder, path) = file(contents);
        Weights::open(path).unwrap()
    }

    /// Why `contents` can't be opened; the message must name the file.
    fn refusal(contents: &[u8]) -> String {
        let (_folder, path) = file(contents);
        let error = Weights::open(&path).err().expect("must be refused");
        assert!(matches!(error, Error::Input { .. }));
        let message = error.to_string();
        let (named, problem) = message.split_once(": ").unwrap();
        assert_eq!(Path::new(named), path);
        problem.to_owned()
    }

    fn f32s(shape: &[usize], data: &[f32]) -> TensorData {
        TensorData::F32 {
            shape: shape.to_vec(),
            data: data.to_vec(),
        }
    }

    #[test]
    fn reads_what_it_wrote() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("all.safetensors");
        let codes = TensorData::U8 {
            shape: vec![3],
            data: vec![0, 128, 255],
        };
        let shifts = TensorData::I32 {
            shape: vec![2, 1],
            data: vec![i32::MIN, 7],
        };
        let tensors = vec![
            ("a.codes".to_owned(), codes),
            ("z".to_owned(), f32s(&[2, 2], &[1.0, -2.5, 1e-40, 0.0])),
            ("b.shifts".to_owned(), shifts),
            ("scalar".to_owned(), f32s(&[], &[3.0])),
            ("none".to_owned(), f32s(&[0, 4], &[])),
        ];
        let metadata = BTreeMap::from([("config".to_owned(), "{\"é\": 1}".to_owned())]);
        save(&path, tensors, metadata.clone()).unwrap();

        let weights = Weights::open(&path).unwrap();
        assert_eq!(weights.path(), path);
        assert_eq!(weights.metadata(), &metadata);
        let names: Vec<_> = weights.names().collect();
        assert_eq!(names, ["a.codes", "b.shifts", "none", "scalar", "z"]);
        assert_eq!(weights.shape("z"), Some(&[2, 2][..]));
        assert_eq!(weights.shape("scalar"), Some(&[][..]));
        assert_eq!(weights.shape("y"), None);
        assert_eq!(weights.float("z").unwrap(), [1.0, -2.5, 1e-40, 0.0]);
        assert_eq!(weights.float("none").unwrap(), [0.0; 0]);
        assert_eq!(weights.bytes("a.codes").unwrap(), [0, 128, 255]);
        assert_eq!(weights.integers("b.shifts").unwrap(), [i32::MIN, 7]);

        // The crate agrees, and every tensor is aligned to its elements.
        let bytes = std::fs::read(&path).unwrap();
        let (header, seen) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header % 8, 0);
        for (name, info) in seen.tensors() {
            assert_eq!(info.data_offsets.0 * 8 % info.dtype.bitsize(), 0, "{name}");
        }
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let folder = TempDir::new().unwrap();
        let write = |name: &str, reversed: bool| {
            let mut tensors: Vec<_> = (0..20)
                .map(|i| (format!("t{i}"), f32s(&[1], &[i as f32])))
                .collect();
            if reversed {
                tensors.reverse();
            }
            let metadata = (0..20).map(|i| (format!("k{i}"), i.to_string())).collect();
            let path = folder.path().join(name);
            save(&path, tensors, metadata).unwrap();
            std::fs::read(path).unwrap()
        };
        assert_eq!(write("a", false), write("b", true));
    }

    #[test]
    fn half_precision_is_converted_exactly() {
        let f16s = [0x3c00u16, 0xc000, 0x7bff, 0x0001, 0x8000, 0x3555];
        let bf16s = [0x3f80u16, 0xff7f, 0x0001, 0x4049];
        let data: Vec<u8> = f16s
            .iter()
            .chain(&bf16s)
            .flat_map(|raw| raw.to_le_bytes())
            .collect();
        let header = r#"{"b":{"dtype":"BF16","shape":[4],"data_offsets":[12,20]},
            "h":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}"#;
        let weights = opened(&container(header, &data));
        let halves = weights.float("h").unwrap();
        assert_eq!(
            halves,
            [1.0, -2.0, 65504.0, 2f32.powi(-24), -0.0, 0.333_251_95]
        );
        assert!(halves[4].is_sign_negative());
        assert_eq!(
            weights.float("b").unwrap(),
            [
                1.0,
                f32::from_bits(0xff7f_0000),
                f32::from_bits(0x0001_0000),
                3.140_625
            ]
        );
    }

    #[test]
    fn values_that_are_not_finite_are_named() {
        for (bad, shown) in [
            (f32::NAN, "NaN"),
            (f32::INFINITY, "inf"),
            (f32::NEG_INFINITY, "-inf"),
        ] {
            let data: Vec<u8> = [1.0, 2.0, 3.0, bad]
                .iter()
                .flat_map(|value: &f32| value.to_le_bytes())
                .collect();
            let header = r#"{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
            let message = opened(&container(header, &data))
                .float("w")
                .unwrap_err()
                .to_string();
            assert!(message.contains("`w` of shape [2, 2]"), "{message}");
            assert!(
                message.contains(&format!("{shown} at flat index 3")),
                "{message}"
            );
        }
        // An F16 infinity is one too.
        let header = r#"{"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}"#;
        assert!(
            opened(&container(header, &[0x00, 0x7c]))
                .float("w")
                .is_err()
        );
    }

    #[test]
    fn other_dtypes_are_tolerated_until_asked_for() {
        let header = r#"{"count":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
        let weights = opened(&container(header, &[0; 8]));
        let message = |result: Result<()>| result.unwrap_err().to_string();
        assert!(
            message(weights.float("count").map(drop))
                .ends_with("tensor `count` is I64, where F32, F16 or BF16 is expected")
        );
        assert!(message(weights.bytes("count").map(drop)).ends_with("where U8 is expected"));
        assert!(message(weights.integers("count").map(drop)).ends_with("where I32 is expected"));
        assert!(message(weights.float("x").map(drop)).ends_with("there is no tensor named `x`"));
    }

    #[test]
    fn hashes_the_whole_file() {
        // `printf '\2\0\0\0\0\0\0\0{}' | sha256sum`
        assert_eq!(
            opened(&container("{}", &[])).sha256(),
            "411a485216e432ece6b9af94fa32154cf79a2a56d4f81266baa50063f45092bd"
        );
    }

    /// Each is refused by the `safetensors` crate as well, unless said otherwise.
    #[test]
    fn a_replaced_tensor_has_other_values() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("m.safetensors");
        let tensors = [("a", [1.0, 2.0]), ("b", [3.0, 4.0])];
        let tensors = tensors.map(|(name, data)| (name.to_owned(), f32s(&[2], &data)));
        save(&path, tensors.into(), BTreeMap::new()).unwrap();
        let mut weights = Weights::open(&path).unwrap();
        let hash = weights.sha256();
        weights.replace("a", vec![1, 3], &[5.0, 6.0, 7.0]);
        assert_eq!(weights.shape("a"), Some(&[1, 3][..]));
        assert_eq!(weights.float("a").unwrap(), [5.0, 6.0, 7.0]);
        assert_eq!(weights.float("b").unwrap(), [3.0, 4.0]);
        // It is the file's hash.
        assert_eq!(weights.sha256(), hash);
    }

    #[test]
    fn tensors_are_joined_and_split_where_they_lie() {
        // Three of F16, of which the second lies first; and what they can't be joined with.
        let header = r#"{"q":{"dtype":"F16","shape":[1,2],"data_offsets":[4,8]},
            "k":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},
            "v":{"dtype":"F16","shape":[2,2],"data_offsets":[8,16]},
            "bf16":{"dtype":"BF16","shape":[1,2],"data_offsets":[16,20]},
            "wide":{"dtype":"F16","shape":[1,3],"data_offsets":[20,26]},
            "one":{"dtype":"F16","shape":[],"data_offsets":[26,28]},
            "codes":{"dtype":"U8","shape":[2],"data_offsets":[28,30]}}"#;
        let halves = (0..8u8).map(f32::from).chain([0.0; 7]).map(f16::from_f32);
        let data: Vec<u8> = halves.flat_map(f16::to_le_bytes).collect();
        let mut weights = opened(&container(header, &data));
        let hash = weights.sha256();
        let mut refused = |parts: &[&str], says: &str| {
            let message = weights.join("qkv", parts).unwrap_err().to_string();
            assert!(message.contains(says), "{message}\nlacks {says}");
        };
        refused(
            &["q", "bf16"],
            "tensor `bf16` is BF16 of shape [1, 2], `q` F16 of shape [1, 2]",
        );
        refused(&["q", "wide"], "tensor `wide` is F16 of shape [1, 3], `q`");
        refused(&["q", "one"], "tensor `one` is one value");
        refused(
            &["codes", "q"],
            "tensor `codes` is U8, where F32, F16 or BF16 is expected",
        );
        refused(&["q", "none"], "no tensor named `none`");
        weights.join("qkv", &["q", "k", "v"]).unwrap();
        assert_eq!(weights.shape("qkv"), Some(&[4, 2][..]));
        let expected = [2.0, 3.0, 0.0, 1.0, 4.0, 5.0, 6.0, 7.0];
        assert_eq!(weights.float("qkv").unwrap(), expected);
        assert_eq!(weights.shape("q"), None);
        assert_eq!(weights.sha256(), hash);
        let message = weights.join("qkv", &["wide"]).unwrap_err().to_string();
        assert!(
            message.contains("has both `qkv` and its parts"),
            "{message}"
        );

        // In halves, one of which is of two pieces.
        let mut refused = |whole: &str, parts: &[&str], says: &str| {
            let message = weights.split(whole, parts).unwrap_err().to_string();
            assert!(message.contains(says), "{message}\nlacks {says}");
        };
        refused("qkv", &["a", "b", "c"], "where 3 equal parts are expected");
        refused("one", &["a"], "of shape [], where 1 equal parts");
        refused("qkv", &["a", "wide"], "has both `qkv` and `wide`");
        refused("none", &["a"], "no tensor named `none`");
        weights.split("qkv", &["a", "b"]).unwrap();
        assert_eq!(weights.shape("qkv"), None);
        assert_eq!(weights.shape("b"), Some(&[2, 2][..]));
        assert_eq!(weights.float("a").unwrap(), [2.0, 3.0, 0.0, 1.0]);
        assert_eq!(weights.float("b").unwrap(), [4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let two = |first: &str, second: &str| {
            format!(
                r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{first}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{second}}}}}"#
            )
        };
        let big = "18446744073709551615";
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (vec![1, 2, 3], "has 3 bytes"),
            (
                [&(1u64 << 60).to_le_bytes()[..], b"{}"].concat(),
                "header length would be 1152921504606846976 bytes, where at most 100000000",
            ),
            (
                [&60u64.to_le_bytes()[..], &one.as_bytes()[..30]].concat(),
                "truncated: the header takes 60 bytes, only 30 follow",
            ),
            (container("hello", &[]), "not that of a safetensors file"),
            (container("[]", &[]), "expected an object of tensors"),
            (container("\u{0}\u{1}", &[]), "not that of a safetensors"),
            (container(r#"{"a":1}"#, &[]), "TensorInfo"),
            (
                container(&one.replace("F32", "F31"), &[0; 8]),
                "unknown variant `F31`",
            ),
            (
                container(&one.replace("[2]", "[-2]"), &[0; 8]),
                "invalid value: integer `-2`",
            ),
            (
                container(&one.replace("F32", "F16"), &[0; 8]),
                "tensor `a` is at data bytes 0..8, but F16 of shape [2] takes 4 bytes",
            ),
            (
                container(&one.replace("[2]", "[3]"), &[0; 8]),
                "F32 of shape [3] takes 12 bytes",
            ),
            (
                container(&one.replace("[2]", &format!("[{big},{big}]")), &[0; 8]),
                "takes no whole number of bytes",
            ),
            (
                container(&one.replace("[0,8]", "[8,0]"), &[0; 8]),
                "tensor `a` begins at data byte 8 where byte 0 is next",
            ),
            (
                container(&two("[0,8]", "[8,4]"), &[0; 8]),
                "tensor `b` is at data bytes 8..4, but F32 of shape [2] takes 8 bytes",
            ),
            (
                container(
                    r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#,
                    &[0],
                ),
                "F4 of shape [3] takes no whole number of bytes",
            ),
            (
                container(&two("[0,8]", "[4,12]"), &[0; 12]),
                "tensor `b` begins at data byte 4 where byte 8 is next",
            ),
            (
                container(&two("[0,8]", "[0,8]"), &[0; 8]),
                "tensor `b` begins at data byte 0 where byte 8 is next",
            ),
            (
                container(&two("[0,8]", "[12,20]"), &[0; 20]),
                "tensor `b` begins at data byte 12 where byte 8 is next",
            ),
            (
                container(one, &[0; 7]),
                "describes 70 bytes in all, the file has 69: it is truncated",
            ),
            (container(one, &[0; 9]), "followed by something else"),
            (
                container(r#"{"__metadata__":{"k":1}}"#, &[]),
                "expected a string",
            ),
        ];
        for (contents, expected) in cases {
            let message = refusal(&contents);
            assert!(message.contains(expected), "{message}\nlacks {expected}");
            assert!(SafeTensors::deserialize(&contents).is_err(), "{message}");
        }
        // The crate keeps the last of two equal names.
        let twice = two("[0,8]", "[0,8]").replace(r#""b""#, r#""a""#);
        assert!(refusal(&container(&twice, &[0; 8])).contains("`a` occurs twice"));
        let twice = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
        assert!(refusal(&container(twice, &[])).contains("`k` occurs twice"));
    }

    #[test]
    fn deep_json_overflows_no_stack() {
        let nested = format!(r#"{{"a":{}"#, "[".repeat(200_000));
        assert!(refusal(&container(&nested, &[])).contains("not that of a safetensors file"));
    }

    #[test]
    fn other_kinds_of_file_are_named_with_the_cure() {
        for (contents, expected) in [
            (&b""[..], "is empty"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
                "`git lfs pull`",
            ),
            (b"PK\x03\x04\x00\x00\x08\x08\x00\x00", "zip archive"),
            (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "save_file"),
            (b"\n<!DOCTYPE html><html>", "an HTML page"),
            (b"<HTML lang=en>", "an HTML page"),
            (b"{\"architecture\": \"vit\"}", "JSON text"),
        ] {
            let message = refusal(contents);
            assert!(message.contains(expected), "{message}");
        }
        let folder = TempDir::new().unwrap();
        let message = |path: &Path| Weights::open(path).err().unwrap().to_string();
        assert!(message(folder.path()).contains("is a folder"));
        assert!(message(&folder.path().join("absent")).contains("can't be opened"));
    }

    #[test]
    fn a_header_whose_length_reads_like_a_pickle_is_none() {
        let mut header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#.to_owned();
        header.push_str(&" ".repeat(0x0280 - header.len()));
        let contents = container(&header, &[9]);
        assert_eq!(contents[..2], [0x80, 0x02]);
        assert_eq!(opened(&contents).bytes("a").unwrap(), [9]);
    }

    #[test]
    fn all_mismatches_come_in_one_error() {
        let header = r#"{"shape":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},
            "count":{"dtype":"I64","shape":[1],"data_offsets":[8,16]},
            "extra":{"dtype":"U8","shape":[1],"data_offsets":[16,17]},
            "fine":{"dtype":"U8","shape":[1],"data_offsets":[17,18]}}"#;
        let weights = opened(&container(header, &[0; 18]));
        let expected = [
            ("shape".to_owned(), vec![2, 1]),
            ("count".to_owned(), vec![1]),
            ("absent".to_owned(), vec![1]),
        ];
        let message = weights
            .check(&expected, &[], |name| name == "fine")
            .unwrap_err()
            .to_string();
        assert!(
            message.ends_with(
                "tensors don't match: 1 missing: `absent`; 1 unexpected: `extra`; \
                1 of another shape (found for expected): `shape` [1, 2] for [2, 1]; \
                1 of an unusable dtype (found for expected): `count` I64 for F32 or F16 or BF16"
            ),
            "{message}"
        );
        assert!(
            weights
                .check(&[("shape".to_owned(), vec![1, 2])], &[], |_| true)
                .is_ok()
        );
    }

    #[test]
    fn long_lists_are_cut() {
        let expected: Vec<_> = (0..1000).map(|i| (format!("t{i:03}"), vec![1])).collect();
        let message = opened(&container("{}", &[]))
            .check(&expected, &[], |_| false)
            .unwrap_err()
            .to_string();
        assert!(
            message.ends_with("1000 missing: `t000`, `t001`, `t002`, `t003`, `t004`, `t005`, `t006`, `t007` and 992 more"),
            "{message}"
        );
    }

    #[test]
    fn what_cannot_be_read_back_is_not_written() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("out.safetensors");
        let one = |name: &str| (name.to_owned(), f32s(&[1], &[1.0]));
        for (tensors, expected) in [
            (vec![one("a"), one("a")], "`a` is reserved or occurs twice"),
            (vec![one(METADATA)], "is reserved"),
            (
                vec![("a".to_owned(), f32s(&[2], &[1.0]))],
                "shape [2] can't be written with 4 bytes of F32",
            ),
        ] {
            let message = save(&path, tensors, BTreeMap::new())
                .unwrap_err()
                .to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = TempDir::new().unwrap();
        let tensors = || vec![("a".to_owned(), f32s(&[1], &[1.0]))];

        let absent = folder.path().join("no such folder").join("out");
        let error = save(&absent, tensors(), BTreeMap::new()).unwrap_err();
        assert!(matches!(error, Error::Input { .. }));
        assert!(
            error
                .to_string()
                .starts_with(&format!("{}: can't be written", absent.display()))
        );

        // A folder in the way makes the rename fail, after the data was written.
        let taken = folder.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        std::fs::write(taken.join("kept"), "old").unwrap();
        assert!(save(&taken, tensors(), BTreeMap::new()).is_err());
        assert_eq!(std::fs::read(taken.join("kept")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn the_file_has_ordinary_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = TempDir::new().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        let (plain, saved) = (folder.path().join("plain"), folder.path().join("saved"));
        std::fs::write(&plain, "").unwrap();
        save(&saved, Vec::new(), BTreeMap::new()).unwrap();
        assert_eq!(mode(&saved), mode(&plain));
    }
}
