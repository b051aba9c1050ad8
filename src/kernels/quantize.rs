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
            gpu.dispatch(
                &SHADER,
                &[
                    ("FORMAT", f64::from(what.format as u32)),
                    (
                        "PACK_ROWS",
                        f64::from(u8::from(what.layout == Layout::Rows)),
                    ),
                ],
                &parameters,
                &[
                    Binding::F32(source),
                    Binding::F32(inverse_scales),
                    Binding::U32(&codes),
                ],
                what.len().div_ceil(WORKGROUP),
            );
        }
    }
    codes
}

/// q = 2^(bits - 1) as the kernels use it.
pub(super) fn half_range(bits: u32) -> f32 {
    (1u32 << (bits - 1)) as f32
}

/// The 8-bit lane of one value.
fn code(format: Format, x: f32, [inverse_1, inverse_2]: [f32; 2], q: f32) -> u8 {
    let high = || 0x80 | (x * inverse_2).round_ties_even().clamp(0.0, q - 1.0) as u8;
    let low = (x.abs() * inverse_1).round_ties_even();
    match format {
        Format::Uniform => (x * inverse_1).round_ties_even().clamp(-q, q - 1.0) as i8 as u8,
        Format::SoftmaxTwin if low <= q - 1.0 => low as u8,
        Format::GeluTwin if x < 0.0 => low.min(q - 1.0) as u8,
        Format::SoftmaxTwin | Format::GeluTwin => high(),
    }
}

fn cpu(what: &Quantize, source: &[f32], inverse_scales: &[f32], codes: &mut [u32]) {
    let q = half_range(what.bits);
    let problems = what.batch[0] * what.batch[1];
    let (words, rows_out) = (what.words(), what.rows_out());
    codes
        .par_chunks_mut(what.matrix_words())
        .enumerate()
        .for_each(|(matrix, codes)| {
            let job = matrix / problems;
            let (outer, inner) = (matrix % problems / what.batch[1], matrix % what.batch[1]);
            for row in 0..what.rows {
                let group = inner * what.inner_groups + row / what.group_rows;
                let scales = &inverse_scales[2 * (job * what.groups + group)..][..2];
                let start = what.source.at([outer, inner], row, 0);
                for word in 0..words {
                    let lanes = std::array::from_fn(|lane| {
                        let k = word * 4 + lane;
                        if k >= what.k {
                            return 0;
                        }
                        let x = source[start + k * what.source.column as usize];
                        code(what.format, x, [scales[0], scales[1]], q)
                    });
                    let at = match what.layout {
                        Layout::Rows => row * words + word,
                        Layout::Columns => word * rows_out + row,
                    };
                    codes[at] = u32::from_le_bytes(lanes);
                }
            }
        });
}
