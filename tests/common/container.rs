//! Safetensors files to damage: taken apart, changed, and put together with a header that may lie.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The parts of a safetensors file.
#[derive(Clone)]
pub struct Container {
    pub metadata: BTreeMap<String, String>,
    pub tensors: BTreeMap<String, Tensor>,
}

/// One tensor: its dtype as the format spells it, and its elements as they are stored.
#[derive(Clone)]
pub struct Tensor {
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// Elements of four bytes, to be changed in place.
    pub fn words(&mut self) -> &mut [[u8; 4]] {
        self.bytes.as_chunks_mut::<4>().0
    }

    /// Makes every element zero.
    pub fn clear(&mut self) {
        self.bytes.fill(0);
    }
}

impl Container {
    /// Takes a sound file apart.
    pub fn parse(file: &[u8]) -> Self {
        let (length, rest) = file.split_first_chunk().expect("a header's length");
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let mut header: Map<String, Value> = serde_json::from_slice(header).expect("a header");
        let metadata = header.remove("__metadata__").unwrap_or_else(|| json!({}));
        let tensors = header.into_iter().map(|(name, info)| {
            let number = |value: &Value| value.as_u64().expect("a size") as usize;
            let numbers = |key: &str| -> Vec<usize> {
                info[key]
                    .as_array()
                    .expect("sizes")
                    .iter()
                    .map(number)
                    .collect()
            };
            let range = numbers("data_offsets");
            let dtype = ["F32", "U8", "I32"]
                .into_iter()
                .find(|known| info["dtype"] == *known)
                .expect("a dtype that the tests use");
            let tensor = Tensor {
                dtype,
                shape: numbers("shape"),
                bytes: data[range[0]..range[1]].to_vec(),
            };
            (name, tensor)
        });
        Self {
            tensors: tensors.collect(),
            metadata: serde_json::from_value(metadata).expect("strings"),
        }
    }

    /// The tensor of this name, to be changed.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors
            .get_mut(name)
            .unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// The file, with a true header.
    pub fn file(&self) -> Vec<u8> {
        self.file_with(|_| {})
    }

    /// The file, with its header changed after it was computed.
    pub fn file_with(&self, lie: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut header = json!({ "__metadata__": self.metadata });
        let mut data = Vec::new();
        for (name, tensor) in &self.tensors {
            let start = data.len();
            data.extend(&tensor.bytes);
            header[name] = json!({
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": [start, data.len()],
            });
        }
        lie(&mut header);
        let header = header.to_string().into_bytes();
        [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
    }
}
