//! What stands for a value by its code.

use crate::format::{Decoder, Encoder, Format, Scale, Table, by_format, half_range};
use crate::quant::plan::OperandScheme;

/// Rounds values of one group to what their codes stand for, as the devices' quantizers do.
pub(super) struct FakeQuantizer {
    format: Format,
    q: f32,
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
            q: half_range(scheme.bits),
            record: format.encoders(&scales, tables.as_slice()),
            decoder: decoders[0],
        }
    }

    /// Returns what the code of `x` stands for.
    pub fn value(&self, x: f32) -> f32 {
        let encoder = Encoder::of(&self.record);
        let lane = by_format!(self.format, F => F::encode(x, encoder, self.q));
        self.decoder.value(self.format.is_twin(), lane)
    }
}
