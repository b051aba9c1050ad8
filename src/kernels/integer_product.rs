//! Exact integer matrix products of packed codes, with the scale and the bias in the epilogue.
//!
//! Worst case of an accumulator: `k · (q - 1) · q` at 8 bits is `k · 127 · 128`, which fits an `i32` up to
//! [`MAX_K`]. A twin's R2 sum is shifted left by m up to 11, which would not fit; [`combine`] never forms that sum in an
//! `i32`.

use super::WORKGROUP;
use super::float_product::dense;
use super::geometry::View;
use super::integer_product_cooperative;
use super::quantize::Format;
use super::strategy;
use crate::device::{Binding, Buffer, Device, Shader, Strategy};
use bytemuck::{Pod, Zeroable};
use ndarray::ArrayView2;
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "integer_product",
    source: include_str!("../../shaders/integer_product.wgsl"),
};

/// The products of twins, which may have another strategy than the others.
pub(super) const TWIN: &str = "integer_product_twin";

/// Rows and columns of an invocation, as in the shader.
const TILE: [usize; 2] = [8, 4];

/// The longest sum whose worst case, with both of a twin's accumulators added up, fits an `i32`.
pub const MAX_K: usize = i32::MAX as usize / (2 * 128 * 128);

/// Integers up to 2^24 are exact in f32, and so are sums of this many products of 8-bit codes.
const EXACT_K: usize = (1 << 24) / (128 * 128);

/// The shape of a batch of products `[m, k] · [k, n]` under several jobs (candidates).
#[derive(Clone, Copy, Debug)]
pub struct IntegerProduct {
    /// Outer (images) and inner (heads) batch size.
    pub batch: [usize; 2],
    /// Rows of the left operand.
    pub m: usize,
    /// Columns of the right operand.
    pub n: usize,
    /// The length that is summed over, at most [`MAX_K`].
    pub k: usize,
    /// Where one job's output lies.
    pub out: View,
    /// Sets of codes or scales.
    pub jobs: usize,
    /// Whether the left operand has codes of its own for each job; if not, all jobs share them.
    pub a_per_job: bool,
    /// Whether the right operand has codes of its own for each job.
    pub b_per_job: bool,
    /// Elements from one job's output to the next; no less than one job's output spans.
    pub job_stride: usize,
    /// The left operand's format; the right one is always uniform.
    pub a_format: Format,
}

/// What one unit of the integer result is worth.
pub struct OutputScales<'a> {
    /// `[jobs][groups]`: the product of the operands' scales (`scale_1` for a twin).
    pub scales: &'a Buffer<f32>,
    /// `[jobs]`: a twin's left shift m; any buffer where the format is uniform.
    pub shifts: &'a Buffer<u32>,
    /// Scales of one job. A column's group is `inner · inner_groups + column / group_columns`.
    pub groups: usize,
    /// Groups from one inner batch entry to the next: 1 for per-head scales, else 0.
    pub inner_groups: usize,
    /// Columns that share a scale.
    pub group_columns: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Parameters {
    pub(super) out: View,
    pub(super) outer: u32,
    pub(super) inner: u32,
    pub(super) m: u32,
    pub(super) n: u32,
    pub(super) words: u32,
    pub(super) jobs: u32,
    pub(super) a_per_job: u32,
    pub(super) b_per_job: u32,
    pub(super) job_stride: u32,
    pub(super) groups: u32,
    pub(super) inner_groups: u32,
    pub(super) group_columns: u32,
    pub(super) has_bias: u32,
    pub(super) r1_sign: i32,
    unused: [u32; 2],
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    out,
    outer,
    inner,
    m,
    n,
    words,
    jobs,
    a_per_job,
    b_per_job,
    job_stride,
    groups,
    inner_groups,
    group_columns,
    has_bias,
    r1_sign,
});

impl IntegerProduct {
    fn problems(&self) -> usize {
        self.batch[0] * self.batch[1]
    }

    fn words(&self) -> usize {
        self.k.div_ceil(4)
    }

    /// What R1 codes are multiplied by: the GELU twin's R1 holds negatives.
    fn r1_sign(&self) -> i32 {
        if self.a_format == Format::GeluTwin {
            -1
        } else {
            1
        }
    }
}

/// `out = scale · (a · b) + bias` for every job and matrix. `a` is packed as [`Layout::Rows`](super::Layout::Rows), `b`
/// as [`Layout::Columns`](super::Layout::Columns); `bias` is `[n]` and optional. Elements of `out` that the view doesn't
/// name keep their values.
pub fn integer_product(
    device: &Device,
    product: &IntegerProduct,
    a: &Buffer<u32>,
    b: &Buffer<u32>,
    scales: &OutputScales,
    bias: Option<&Buffer<f32>>,
    out: &Buffer<f32>,
) {
    assert!(
        product.k <= MAX_K,
        "a sum of {} products could wrap",
        product.k
    );
    match device {
        Device::Cpu(_) => cpu(
            product,
            &a.host_slice(),
            &b.host_slice(),
            scales,
            bias.map(Buffer::host_slice).as_deref(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(gpu) => {
            let parameters = Parameters {
                out: product.out,
                outer: product.batch[0] as u32,
                inner: product.batch[1] as u32,
                m: product.m as u32,
                n: product.n as u32,
                words: product.words() as u32,
                jobs: product.jobs as u32,
                a_per_job: product.a_per_job.into(),
                b_per_job: product.b_per_job.into(),
                job_stride: product.job_stride as u32,
                groups: scales.groups as u32,
                inner_groups: scales.inner_groups as u32,
                group_columns: scales.group_columns as u32,
                has_bias: bias.is_some().into(),
                r1_sign: product.r1_sign(),
                unused: [0; 2],
            };
            let bindings = [
                Binding::U32(a),
                Binding::U32(b),
                Binding::F32(scales.scales),
                Binding::U32(scales.shifts),
                // Never read without `has_bias`; a binding must be something.
                Binding::F32(bias.unwrap_or(scales.scales)),
                Binding::F32(out),
            ];
            let matrices = product.problems() * product.jobs;
            let twin = product.a_format.is_twin();
            let twin_constant = ("TWIN", f64::from(u8::from(twin)));
            let name = if twin { TWIN } else { SHADER.name };
            match strategy::strategy(gpu, name, product.m) {
                Strategy::Registers => {
                    let tiles = product.m.div_ceil(TILE[0]) * product.n.div_ceil(TILE[1]);
                    gpu.dispatch(
                        &SHADER,
                        &[twin_constant],
                        &parameters,
                        &bindings,
                        (tiles * matrices).div_ceil(WORKGROUP),
                    );
                }
                Strategy::Tiled(tile) => {
                    let [down, across, step] = strategy::constants(tile);
                    gpu.dispatch(
                        SHADER.entry_point("tiled"),
                        &[twin_constant, down, across, step],
                        &parameters,
                        &bindings,
                        strategy::workgroups(tile, product.m, product.n) * matrices,
                    );
                }
                Strategy::Cooperative => integer_product_cooperative::dispatch(
                    gpu,
                    twin_constant,
                    &parameters,
                    &bindings,
                    matrices,
                ),
            }
        }
    }
}

/// `r1 + (r2 << shift)` as a float. The exact integer is `upper · 2^shift + lower`; `upper` can't wrap for sums of at
/// most [`MAX_K`] products, and the conversion rounds only what an f32 can't hold.
fn combine(r1: i32, r2: i32, shift: u32) -> f32 {
    let upper = r2 + (r1 >> shift);
    let lower = r1 & ((1 << shift) - 1);
    upper as f32 * (1u32 << shift) as f32 + lower as f32
}

fn cpu(
    product: &IntegerProduct,
    a: &[u32],
    b: &[u32],
    scales: &OutputScales,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let (problems, words) = (product.problems(), product.words());
    let a_words = product.m * words;
    let b_words = words * product.n.next_multiple_of(4);
    let (scale_values, shifts) = (scales.scales.host_slice(), scales.shifts.host_slice());
    let no_bias = vec![0.0; product.n];
    let bias = bias.unwrap_or(&no_bias);
    // The jobs' outputs are apart from each other; within a job, matrices may interleave.
    out.par_chunks_mut(product.job_stride)
        .take(product.jobs)
        .enumerate()
        .for_each(|(job, out)| {
            for problem in 0..problems {
                let (outer, inner) = (problem / product.batch[1], problem % product.batch[1]);
                let a_matrix = usize::from(product.a_per_job) * job * problems + problem;
                let b_matrix = usize::from(product.b_per_job) * job * problems + problem;
                let integers = integers(
                    product,
                    &a[a_matrix * a_words..][..a_words],
                    &b[b_matrix * b_words..][..b_words],
                    shifts[job],
                );
                let column_scales: Vec<f32> = (0..product.n)
                    .map(|column| {
                        let group = inner * scales.inner_groups + column / scales.group_columns;
                        scale_values[job * scales.groups + group]
                    })
                    .collect();
                for (row, integers) in integers.chunks_exact(product.n).enumerate() {
                    let start = product.out.at([outer, inner], row, 0);
                    let values = integers.iter().zip(&column_scales).zip(bias);
                    let values = values.map(|((integer, scale), bias)| integer * scale + bias);
                    if product.out.column == 1 {
                        // A plain slice, so that the compiler can use vector instructions.
                        let out = &mut out[start..start + product.n];
                        out.iter_mut().zip(values).for_each(|(o, v)| *o = v);
                    } else {
                        let out = out[start..].iter_mut().step_by(product.out.column as usize);
                        out.zip(values).for_each(|(o, v)| *o = v);
                    }
                }
            }
        });
}

/// The exact integers of one matrix, each as the float that it converts to.
fn integers(product: &IntegerProduct, a: &[u32], b: &[u32], shift: u32) -> Vec<f32> {
    let (m, n, words) = (product.m, product.n, product.words());
    let columns = n.next_multiple_of(4);
    let mut b_values = vec![0.0; 4 * words * columns];
    for (word, codes) in b.chunks_exact(columns).enumerate() {
        for lane in 0..4 {
            let row = &mut b_values[(4 * word + lane) * columns..][..columns];
            for (value, code) in row.iter_mut().zip(codes) {
                *value = f32::from((code >> (8 * lane)) as u8 as i8);
            }
        }
    }
    let b_values = ArrayView2::from_shape((4 * words, columns), &b_values)
        .expect("the right operand holds whole words of padded columns");
    let b_values = b_values.slice(ndarray::s![.., ..n]);
    if !product.a_format.is_twin() {
        return exact(m, a, b_values, |code| f32::from(code as i8));
    }
    let magnitude = |code: u8| f32::from(code & 0x7f);
    let in_r2 = |code: u8| f32::from(code >> 7);
    let r1 = |code| magnitude(code) * (1.0 - in_r2(code));
    let r2 = |code| magnitude(code) * in_r2(code);
    let sign = product.r1_sign();
    if product.k <= EXACT_K {
        let mut combined = exact(m, a, b_values, r1);
        for (r1, r2) in combined.iter_mut().zip(exact(m, a, b_values, r2)) {
            *r1 = combine(sign * *r1 as i32, r2 as i32, shift);
        }
        combined
    } else {
        let r1 = exact_long(m, a, b_values, r1);
        let r2 = exact_long(m, a, b_values, r2);
        let sums = r1.into_iter().zip(r2);
        sums.map(|(r1, r2)| combine(sign * r1, r2, shift)).collect()
    }
}

/// The integer product of `m` rows of codes, each worth `value`, and `b` `[k, n]`, by a library's f32 product.
fn exact(m: usize, a: &[u32], b: ArrayView2<f32>, value: impl Fn(u8) -> f32) -> Vec<f32> {
    if b.nrows() > EXACT_K {
        let sums = exact_long(m, a, b, value);
        return sums.into_iter().map(|sum| sum as f32).collect();
    }
    let a = values(a, value);
    let a = ArrayView2::from_shape((m, b.nrows()), &a)
        .expect("the left operand holds m rows of whole words");
    let mut sum = vec![0.0; m * b.ncols()];
    dense(a, b, &mut sum);
    sum
}

/// The same for a long `k`: stretches short enough to be exact, added up as integers.
fn exact_long(m: usize, a: &[u32], b: ArrayView2<f32>, value: impl Fn(u8) -> f32) -> Vec<i32> {
    let (k, n) = b.dim();
    let a = values(a, value);
    let a =
        ArrayView2::from_shape((m, k), &a).expect("the left operand holds m rows of whole words");
    let mut part = vec![0.0; m * n];
    let mut sum = vec![0; m * n];
    for start in (0..k).step_by(EXACT_K) {
        let stretch = start..(start + EXACT_K).min(k);
        dense(
            a.slice(ndarray::s![.., stretch.clone()]),
            b.slice(ndarray::s![stretch, ..]),
            &mut part,
        );
        for (sum, part) in sum.iter_mut().zip(&part) {
            *sum += *part as i32;
        }
    }
    sum
}

/// What each code of packed words is worth.
fn values(words: &[u32], value: impl Fn(u8) -> f32) -> Vec<f32> {
    let codes = words.iter().flat_map(|word| word.to_le_bytes());
    codes.map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combine_is_exact_where_a_shifted_sum_would_wrap() {
        for (r1, r2, shift) in [
            (0, 0, 0),
            (-1, 0, 11),
            (4096 * 127 * 128, 4096 * 127 * 127, 11),
            (-4096 * 127 * 128, -4096 * 127 * 128, 11),
            (12_345, -678, 5),
            (-12_345, 678, 11),
        ] {
            let exact = i64::from(r1) + (i64::from(r2) << shift);
            let found = combine(r1, r2, shift);
            // Two roundings to 24 bits, of `upper` and of the sum.
            let bound = exact.abs() as f64 * 2f64.powi(-23);
            assert!(
                (f64::from(found) - exact as f64).abs() <= bound,
                "{r1} + ({r2} << {shift}) = {exact}, found {found}"
            );
            if exact.abs() < 1 << 24 {
                assert_eq!(found as i64, exact);
            }
        }
    }
}
