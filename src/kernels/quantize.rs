//! Floats to packed 8-bit codes, on the fly, in any of the three formats.

use super::WORKGROUP;
use super::geometry::View;
use crate::device::{Binding, Buffer, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "quantize",
    source: include_str!("../../shaders/quantize.wgsl"),
};

/// Words whose values one invocation reads, as in the shader.
const STRIP: usize = 8;
/// Jobs that one invocation writes those words for, as in the shader.
const JOBS: usize = 8;

/// How a code stands for a value (paper, section 3.1). `q = 2^(bits - 1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Signed code `c` in `-q..q`, value `c · scale`.
    Uniform,
    /// Range flag and magnitude `u` in `0..q`: R1 is `u · scale_1`, R2 is `u · scale_2`; for values in 0..=1.
    SoftmaxTwin,
    /// Range flag and magnitude `u` in `0..q`: R1 is `-u · scale_1`, R2 is `u · scale_2`.
    GeluTwin,
}

impl Format {
    /// Whether codes carry a range flag in the top bit of their lane.
    pub fn is_twin(self) -> bool {
        self != Self::Uniform
    }
}

/// Which index of the packed codes runs fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[job][problem][row][word]`: the left operand of an integer product.
    Rows,
    /// `[job][problem][word][row]`, rows padded to a multiple of four with zeros: the right operand, whose columns are
    /// these rows.
    Columns,
}

/// What to quantize: a batch of matrices `[rows, k]`, each under the scales of several jobs (candidates).
#[derive(Clone, Copy, Debug)]
pub struct Quantize {
    /// Where the values lie; `row` and `column` are the strides of the rows and of `k`.
    pub source: View,
    /// Outer (images) and inner (heads) batch size.
    pub batch: [usize; 2],
    /// Rows of each matrix.
    pub rows: usize,
    /// The length that a product sums over.
    pub k: usize,
    /// Sets of scales.
    pub jobs: usize,
    /// Scales of one job. A value's group is `inner · inner_groups + row / group_rows`.
    pub groups: usize,
    /// Groups from one inner batch entry to the next: 1 for per-head scales, else 0.
    pub inner_groups: usize,
    /// Rows that share a scale.
    pub group_rows: usize,
    /// Bit width, 2 to 8.
    pub bits: u32,
    /// The format of the codes.
    pub format: Format,
    /// The layout of the packed words.
    pub layout: Layout,
}

impl Quantize {
    /// Words that four codes along `k` are packed into, per row.
    pub fn words(&self) -> usize {
        self.k.div_ceil(4)
    }

    fn rows_out(&self) -> usize {
        match self.layout {
            Layout::Rows => self.rows,
            Layout::Columns => self.rows.next_multiple_of(4),
        }
    }

    fn matrix_words(&self) -> usize {
        self.words() * self.rows_out()
    }

    /// Words of the whole result.
    pub fn len(&self) -> usize {
        self.jobs * self.batch[0] * self.batch[1] * self.matrix_words()
    }

    /// Whether there is nothing to quantize.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    source: View,
    outer: u32,
    inner: u32,
    rows: u32,
    k: u32,
    jobs: u32,
    groups: u32,
    inner_groups: u32,
    group_rows: u32,
    q: f32,
    unused: [u32; 3],
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    source,
    outer,
    inner,
    rows,
    k,
    jobs,
    groups,
    inner_groups,
    group_rows,
    q,
});

/// Packed codes of `source`, one set per job. `inverse_scales` is `[jobs][groups][2]`: the inverses of `scale_1` and
/// `scale_2`, of which the uniform format uses the first.
pub fn quantize(
    device: &Device,
    what: &Quantize,
    source: &Buffer<f32>,
    inverse_scales: &Buffer<f32>,
) -> Buffer<u32> {
    let codes = device.zeros(what.len());
    match device {
        Device::Cpu(_) => cpu(
            what,
            &source.host_slice(),
            &inverse_scales.host_slice(),
            &mut codes.host_slice_mut(),
        ),
        Device::Gpu(gpu) => {
            let parameters = Parameters {
                source: what.source,
                outer: what.batch[0] as u32,
                inner: what.batch[1] as u32,
                rows: what.rows as u32,
                k: what.k as u32,
                jobs: what.jobs as u32,
                groups: what.groups as u32,
                inner_groups: what.inner_groups as u32,
                group_rows: what.group_rows as u32,
                q: half_range(what.bits),
                unused: [0; 3],
            };
            let flag = |on: bool| f64::from(u8::from(on));
            gpu.dispatch(
                &SHADER,
                &[
                    ("FORMAT", f64::from(what.format as u32)),
                    ("PACK_ROWS", flag(what.layout == Layout::Rows)),
                    ("ROW_GROUPS", flag(what.group_rows < what.rows)),
                ],
                &parameters,
                &[
                    Binding::F32(source),
                    Binding::F32(inverse_scales),
                    Binding::U32(&codes),
                ],
                what.jobs.div_ceil(JOBS)
                    * what.batch[0]
                    * what.batch[1]
                    * what.matrix_words().div_ceil(WORKGROUP * STRIP),
            );
        }
    }
    codes
}

/// q = 2^(bits - 1) as the kernels use it.
pub(super) fn half_range(bits: u32) -> f32 {
    (1u32 << (bits - 1)) as f32
}

/// Adding 1.5 · 2^23 to a float of magnitude below 2^22 rounds it half-to-even to an integer, whose two's complement is
/// then in the low bits of the sum. Faster than a call of the library's rounding, and the same result.
const ROUNDER: f32 = 12_582_912.0;

/// The low byte of `round(x)`.
fn rounded(x: f32) -> u8 {
    (x + ROUNDER).to_bits() as u8
}

/// The 8-bit lane of one value. Clamping to integers before rounding gives what clamping after it gives.
#[inline(always)]
fn code(format: Format, x: f32, [inverse_1, inverse_2]: [f32; 2], q: f32) -> u8 {
    let low = x.abs() * inverse_1;
    let high = 0x80 | rounded((x * inverse_2).clamp(0.0, q - 1.0));
    match format {
        Format::Uniform => rounded((x * inverse_1).clamp(-q, q - 1.0)),
        Format::SoftmaxTwin => {
            let low = rounded(low.min(q));
            if f32::from(low) <= q - 1.0 { low } else { high }
        }
        Format::GeluTwin if x < 0.0 => rounded(low.min(q - 1.0)),
        Format::GeluTwin => high,
    }
}

fn cpu(what: &Quantize, source: &[f32], inverse_scales: &[f32], codes: &mut [u32]) {
    // The format is a constant inside each row's loop.
    match what.format {
        Format::Uniform => fill(what, source, inverse_scales, codes, |x, scales, q| {
            code(Format::Uniform, x, scales, q)
        }),
        Format::SoftmaxTwin => fill(what, source, inverse_scales, codes, |x, scales, q| {
            code(Format::SoftmaxTwin, x, scales, q)
        }),
        Format::GeluTwin => fill(what, source, inverse_scales, codes, |x, scales, q| {
            code(Format::GeluTwin, x, scales, q)
        }),
    }
}

fn fill(
    what: &Quantize,
    source: &[f32],
    inverse_scales: &[f32],
    codes: &mut [u32],
    code: impl Fn(f32, [f32; 2], f32) -> u8 + Sync,
) {
    let q = half_range(what.bits);
    let problems = what.batch[0] * what.batch[1];
    let (words, rows_out) = (what.words(), what.rows_out());
    codes
        .par_chunks_mut(what.matrix_words())
        .enumerate()
        .for_each(|(matrix, codes)| {
            let job = matrix / problems;
            let (outer, inner) = (matrix % problems / what.batch[1], matrix % what.batch[1]);
            let mut lanes = vec![0u8; 4 * words];
            for row in 0..what.rows {
                let group = inner * what.inner_groups + row / what.group_rows;
                let scales = &inverse_scales[2 * (job * what.groups + group)..][..2];
                let scales = [scales[0], scales[1]];
                let source = &source[what.source.at([outer, inner], row, 0)..];
                if what.source.column == 1 {
                    for (lane, &x) in lanes.iter_mut().zip(&source[..what.k]) {
                        *lane = code(x, scales, q);
                    }
                } else {
                    let values = source.iter().step_by(what.source.column as usize);
                    for (lane, &x) in lanes[..what.k].iter_mut().zip(values) {
                        *lane = code(x, scales, q);
                    }
                }
                let (start, step) = match what.layout {
                    Layout::Rows => (row * words, 1),
                    Layout::Columns => (row, rows_out),
                };
                let packed = lanes.as_chunks::<4>().0;
                for (word, lanes) in codes[start..].iter_mut().step_by(step).zip(packed) {
                    *word = u32::from_le_bytes(*lanes);
                }
            }
        });
}
