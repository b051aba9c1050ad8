//! Edits of a sound safetensors file, so that inputs get past its JSON.

use super::container::Container;
use serde_json::{Value, json};

/// Bytes of an input that make one edit.
pub const EDIT: usize = 8;

/// The most bytes that a tensor grows to.
const MAX_BYTES: usize = 1 << 16;

/// Sizes, bits and shifts on both sides of a limit, and what overflows when it is multiplied.
const WHOLE: [u64; 24] = [
    0,
    1,
    2,
    3,
    8,
    9,
    11,
    12,
    16,
    147,
    148,
    255,
    1 << 10,
    4096,
    4097,
    65_535,
    65_536,
    1 << 20,
    1 << 31,
    1 << 32,
    1 << 40,
    1 << 60,
    1 << 63,
    u64::MAX,
];
/// Likewise.
const REAL: [f64; 12] = [
    -1.0, -0.0, 0.5, 1.5, 1e-45, 1e-39, 2e-38, 1e-19, 1e19, 3e38, 1e300, -1e300,
];
const DTYPES: [&str; 9] = [
    "F32", "U8", "I32", "F16", "BF16", "F64", "I64", "F4", "BOOL",
];
/// What tells kinds of networks apart.
const NAMES: [&str; 10] = [
    "head.weight",
    "head.fc.weight",
    "head_dist.bias",
    "dist_token",
    "reg_token",
    "pos_embed",
    "layers.0.downsample.norm.weight",
    "layers.0.blocks.0.attn.logit_scale",
    "layers.2.blocks.0.norm1.weight",
    "blocks.1.norm1.weight",
];

/// One of `files`, by the first byte of `input`, after the edits in the rest.
pub fn edited(files: &[Container], input: &[u8]) -> Vec<u8> {
    let (which, edits) = input.split_first().unwrap_or((&0, &[]));
    let mut file = files[usize::from(*which) % files.len()].clone();
    let mut lies = Vec::new();
    for edit in edits.as_chunks::<EDIT>().0 {
        let edit = Edit::new(edit);
        match edit.operation {
            0 => edit.metadata(&mut file),
            1 => lies.extend(edit.lie(&file)),
            _ => edit.tensor(&mut file),
        }
    }
    file.file_with(|header| {
        for (name, end, number) in lies {
            if let Some(offset) = header[&name].pointer_mut(&format!("/data_offsets/{end}")) {
                *offset = json!(number);
            }
        }
    })
}

/// One edit. Each operation makes of the numbers what it can.
struct Edit {
    operation: u8,
    target: usize,
    place: usize,
    choice: usize,
    value: [u8; 4],
}

impl Edit {
    fn new([operation, target, place, choice, value @ ..]: &[u8; EDIT]) -> Self {
        Self {
            operation: operation % 8,
            target: usize::from(*target),
            place: usize::from(*place),
            choice: usize::from(*choice),
            value: *value,
        }
    }

    fn whole(&self) -> u64 {
        let value = u32::from_le_bytes(self.value);
        WHOLE.get(self.choice).copied().unwrap_or(value.into())
    }

    fn real(&self) -> f64 {
        REAL[usize::from(self.value[0]) % REAL.len()]
    }

    /// Another number in the JSON under one of the keys.
    fn metadata(&self, file: &mut Container) {
        let count = file.metadata.len().max(1);
        let Some(text) = file.metadata.values_mut().nth(self.target % count) else {
            return;
        };
        let number = match self.value[3] % 2 {
            0 => json!(self.whole()),
            _ => json!(self.real()),
        };
        let Ok(mut told) = serde_json::from_str::<Value>(text) else {
            *text = number.to_string();
            return;
        };
        let mut leaves = Vec::new();
        collect(&told, String::new(), &mut leaves);
        if let Some(leaf) = leaves.get(self.place % leaves.len().max(1)) {
            *told.pointer_mut(leaf).expect("one of its leaves") = number;
        }
        *text = told.to_string();
    }

    /// The name of a tensor, 0 for its start or 1 for its end, and a place where it is not.
    fn lie(&self, file: &Container) -> Option<(String, usize, u64)> {
        Some((self.name(file)?, self.place % 2, self.whole()))
    }

    fn name(&self, file: &Container) -> Option<String> {
        let count = file.tensors.len().max(1);
        file.tensors.keys().nth(self.target % count).cloned()
    }

    /// Something else about one of the tensors.
    fn tensor(&self, file: &mut Container) {
        let Some(name) = self.name(file) else {
            return;
        };
        let mut tensor = file.tensors.remove(&name).expect("one of its tensors");
        let rank = tensor.shape.len().max(1);
        let mut kept = Some(name);
        match self.operation {
            // A float, by what is special about it.
            2 => {
                let words = tensor.words();
                let count = words.len().max(1);
                if let Some(word) = words.get_mut(self.place % count) {
                    *word = (self.real() as f32).to_le_bytes();
                }
            }
            // Any four bytes.
            3 => {
                let count = tensor.bytes.len().max(1);
                let bytes = tensor.bytes.iter_mut().skip(self.place % count);
                for (byte, value) in bytes.zip(self.value) {
                    *byte = value;
                }
            }
            // Another size, with as many bytes.
            4 => {
                if let Some(size) = tensor.shape.get_mut(self.place % rank) {
                    *size = self.choice % 32;
                }
                let width = if tensor.dtype == "U8" { 1 } else { 4 };
                let sizes = tensor.shape.iter();
                let len = sizes.fold(width, |len: usize, &size| len.saturating_mul(size));
                if len <= MAX_BYTES {
                    tensor.bytes.resize(len, self.value[0]);
                }
            }
            // Another size, with the bytes as they were.
            5 => {
                if let Some(size) = tensor.shape.get_mut(self.place % rank) {
                    *size = self.whole() as usize;
                }
            }
            6 => tensor.dtype = DTYPES[self.choice % DTYPES.len()],
            // Another name, or none.
            _ => kept = NAMES.get(self.choice).map(|name| (*name).to_owned()),
        }
        if let Some(name) = kept {
            file.tensors.insert(name, tensor);
        }
    }
}

/// The places of all values in `value` that hold no others.
fn collect(value: &Value, place: String, leaves: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                collect(member, format!("{place}/{name}"), leaves);
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                collect(item, format!("{place}/{at}"), leaves);
            }
        }
        _ => leaves.push(place),
    }
}
