//! What stands for a value by its code.

use crate::format::{Decoder, Format, Scale, Table};
use crate::kernels::fake_quantize_values;
use crate::quant::plan::OperandScheme;
use rayon::prelude::*;

/// Counts the values that one task rounds.
const PER_TASK: usize = 1 << 14;

/// Rounds values of one group to what their codes stand for, as the devices' quantizers do.
pub(super) struct FakeQuantizer {
    format: Format,
    bits: u32,
    /// The record of the group's encoder.
    record: Vec<u32>,
    decoder: Decoder,
}

impl FakeQuantizer {
    pub fn new(scheme: &OperandScheme, scale: Scale, table: Option<&Table>) -> Self {
        let format = scheme.format;
        let (scales, tables) = ([scale], table.cloned());
        let decoders = format.decoders(&scales, tables.as_slice());
        Self {
            format,
            bits: scheme.bits,
            record: format.encoders(&scales, tables.as_slice()),
            decoder: decoders[0],
        }
    }

    /// Returns what the codes of `values` stand for.
    pub fn round(&self, values: &[f32]) -> Vec<f32> {
        let mut rounded = values.to_vec();
        rounded.par_chunks_mut(PER_TASK).for_each(|values| {
            fake_quantize_values(self.format, self.bits, &self.record, self.decoder, values);
        });
        rounded
    }
}
