//! Exact integer matrix products of packed codes, and what becomes of them: floats, the next product's codes, or a
//! candidate's error.
//!
//! Worst case of an accumulator: `k · (q - 1) · q` at 8 bits is `k · 127 · 128`, which fits an `i32` up to [`MAX_K`]. A
//! twin's R2 sum is shifted left by m up to 11, which would not fit; [`combine`] never forms that sum in an `i32`.

pub(super) mod cases;
mod cpu;
mod dots;
mod library;
mod right_matrix;
mod timed;
pub(super) use cases::{MISTAKE, cases};
pub(super) use timed::TIMED;

use super::WORKGROUP;
use super::gelu;
use super::geometry::View;
use super::integer_product_cooperative as cooperative;
use super::integer_product_cooperative_int8 as cooperative_int8;
use super::permute_tokens::TokenOrder;
use super::quantize::padded;
use super::strategy;
use super::sum_rows::sum_rows;
use super::width::Width;
use crate::device::{Binding, Buffer, Commands, Device, Gpu, Shader, Strategy};
use crate::format::{Format, Gelu, ProductRule, formats_wgsl, half_range};
use bytemuck::{Pod, Zeroable};

pub(crate) static SHADER: Shader = Shader {
    name: "integer_product",
    source: concat!(
        formats_wgsl!(),
        include_str!("../../shaders/shared/gelu.wgsl"),
        include_str!("../../shaders/shared/integer_product.wgsl"),
        include_str!("../../shaders/shared/view.wgsl"),
        include_str!("../../shaders/integer_product.wgsl"),
    ),
};

/// Names the products of twins, which may have another strategy than the others.
pub(super) const TWIN: &str = "integer_product_twin";

/// Sets the rows and columns of one invocation's tile in registers, as in the shader.
const TILE: [usize; 2] = [12, 12];
/// Counts the rows of an operand in one vector. As many columns are the codes of a word, and blocks of as many rows and
/// columns have their errors summed by the shader.
const VECTOR: usize = 4;

/// Limits the length of a sum so that its worst case, with both of a twin's accumulators added up, fits an `i32`.
pub const MAX_K: usize = i32::MAX as usize / (2 * 128 * 128);

/// Describes the shape of a batch of products `[m, k] · [k, n]` under several jobs (candidates).
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
    /// Where one job's values lie, in elements.
    pub out: View,
    /// Sets of codes or scales.
    pub jobs: usize,
    /// Whether the left operand has codes of its own for each job; if not, all jobs share them.
    pub a_per_job: bool,
    /// Whether the right operand has codes of its own for each job.
    pub b_per_job: bool,
    /// Elements from one job's values to the next; no less than one job's values span.
    pub job_stride: usize,
    /// The left operand's format; the right one is always uniform.
    pub a_format: Format,
    /// How the right operand is stored.
    pub b_width: Width,
}

/// Holds what is multiplied, and what one unit of the integer result is worth.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// The left operand's codes, as [`quantize`](super::quantize) gives them.
    pub a: &'a Buffer<u32>,
    /// The right operand's codes, laid out alike with its columns in the place of rows, or packed by [`Width::pack`].
    pub b: &'a Buffer<u32>,
    /// `[jobs][groups][2]`: the product of the operands' scales (`scale_1` for a twin), and a twin's left shift m.
    pub scales: &'a Buffer<f32>,
    /// Scales of one job. A column's group is `inner · inner_groups + column / group_columns`.
    pub groups: usize,
    /// Groups from one inner batch entry to the next: 1 for per-head scales, else 0.
    pub inner_groups: usize,
    /// Columns that share a scale.
    pub group_columns: usize,
    /// `[n][2]`: what a column's scale is multiplied by, and the column's bias; 1 and 0 where there is none.
    pub affine: Option<&'a Buffer<f32>>,
}

/// Makes [`Operands::affine`] of columns with these factors and biases, where there are any.
pub fn affine(factors: Option<&[f32]>, biases: Option<&[f32]>) -> Option<Vec<f32>> {
    let columns = factors.or(biases)?.len();
    let of = |values: Option<&[f32]>, column: usize, default| {
        values.map_or(default, |values| values[column])
    };
    let pairs = (0..columns).flat_map(|column| [of(factors, column, 1.0), of(biases, column, 0.0)]);
    Some(pairs.collect())
}

/// Holds what is added to a product's values.
#[derive(Clone, Copy)]
pub struct Residual<'a> {
    /// The values to add, as many as the output has and laid out like it.
    pub values: &'a Buffer<f32>,
    /// The order that the rows are in, which the output's are not: row r of each `from.len()` goes to row `from[r]` of
    /// `tokens`, padding nowhere. Without it they stay.
    pub order: Option<TokenOrder<'a>>,
}

/// Describes the codes that values become: the left operand of the product that follows.
#[derive(Clone, Copy)]
pub struct NextCodes<'a> {
    /// The form of GELU that comes before the quantizer, if one does.
    pub gelu: Option<Gelu>,
    /// The codes' format.
    pub format: Format,
    /// Bit width, 2 to 8.
    pub bits: u32,
    /// The record of the codes' [encoder](Format::encoders).
    pub encoder: &'a Buffer<u32>,
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
    pub(super) has_affine: u32,
    pub(super) r1_sign: i32,
    pub(super) has_residual: u32,
    pub(super) order_rows: u32,
    pub(super) image_rows: u32,
    pub(super) has_weight: u32,
    pub(super) q: f32,
    unused: u32,
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
    has_affine,
    r1_sign,
    has_residual,
    order_rows,
    image_rows,
    has_weight,
    q,
});

/// Says what becomes of the values, as the shader numbers it.
#[derive(Clone, Copy)]
enum Epilogue<'a> {
    Values(Option<Residual<'a>>),
    Codes(NextCodes<'a>),
    Error {
        reference: &'a Buffer<f32>,
        weight: Option<&'a Buffer<f32>>,
    },
}

impl IntegerProduct {
    fn problems(&self) -> usize {
        self.batch[0] * self.batch[1]
    }

    /// Says how `gpu` divides the work.
    fn strategy(&self, gpu: &Gpu) -> Strategy {
        strategy::strategy(gpu, strategy_name(self.a_format.is_twin()), self.m)
    }

    fn words(&self) -> usize {
        self.k.div_ceil(4)
    }

    /// Returns what R1 codes are multiplied by.
    fn r1_sign(&self) -> i32 {
        match self.a_format.rule() {
            ProductRule::Signed => 1,
            ProductRule::Ranges { r1_sign } => r1_sign,
        }
    }

    /// Finds where the words of [`integer_product_codes`] lie if each row of the output, all heads side by side, is to
    /// be a row of the next left operand, and how many there are. `None` where a word would hold codes of two heads.
    pub fn words_of_rows(&self) -> Option<(View, usize)> {
        words_of_rows(self.batch, [self.m, self.n])
    }
}

/// Finds the same of a batch of outputs `[m, n]`.
pub(super) fn words_of_rows(
    [outer, inner]: [usize; 2],
    [m, n]: [usize; 2],
) -> Option<(View, usize)> {
    let rows = padded(outer * m);
    (inner == 1 || n.is_multiple_of(4)).then(|| {
        let words = n.div_ceil(4);
        let view = View::new(0, [m, words * rows], 1, rows);
        (view, inner * words * rows)
    })
}

/// Returns the name that the strategy of products of twins, or of others, is set by.
fn strategy_name(is_twin: bool) -> &'static str {
    if is_twin { TWIN } else { SHADER.name }
}

/// Returns how `device` divides integer products, of twins or of others; `None` on the CPU.
pub fn integer_strategy(device: &Device, is_twin: bool) -> Option<Strategy> {
    device.strategy(strategy_name(is_twin))
}

/// Says whether [`integer_product_error`] can add up groups of `group_columns` among `columns` columns: each group is a
/// single column or all of them, or consists of whole sets of four columns, which the shader finishes at once.
pub fn vectors_lie_within(columns: usize, group_columns: usize) -> bool {
    group_columns == 1 || group_columns == columns || group_columns.is_multiple_of(VECTOR)
}

/// Computes `out = factor · scale · (a · b) + bias` for every job and matrix, plus the residual where there is one.
/// Elements of `out` that the view doesn't name keep their values.
pub fn integer_product(
    commands: &mut Commands,
    product: &IntegerProduct,
    operands: &Operands,
    residual: Option<Residual>,
    out: &Buffer<f32>,
) {
    match commands.device() {
        Device::Cpu(_) => cpu::values(product, operands, residual, &mut out.host_slice_mut()),
        Device::Gpu(gpu) => {
            let out = Binding::F32(out);
            let (strategy, epilogue) = (product.strategy(gpu), Epilogue::Values(residual));
            dispatch(commands, strategy, product, operands, epilogue, out);
        }
    }
}

/// Computes the codes of `factor · scale · (a · b) + bias`, or of its GELU, for a single job. `product.out` says where
/// the words lie, four neighbouring columns in one: its strides count words, that of `column` from one word to the
/// next. Lanes past the last column are zero.
pub fn integer_product_codes(
    commands: &mut Commands,
    product: &IntegerProduct,
    operands: &Operands,
    next: &NextCodes,
    out: &Buffer<u32>,
) {
    assert_eq!(product.jobs, 1, "codes are for one set of scales");
    match commands.device() {
        Device::Cpu(_) => cpu::codes(product, operands, next, &mut out.host_slice_mut()),
        Device::Gpu(gpu) => {
            let out = Binding::U32(out);
            let (strategy, epilogue) = (product.strategy(gpu), Epilogue::Codes(*next));
            dispatch(commands, strategy, product, operands, epilogue, out);
        }
    }
}

/// Computes `[jobs][groups]`: Σ (weight · (factor · scale · (a · b) + bias - reference))² over each group's elements.
/// `reference` and, where there is one, `weight` lie as one job's values would. Groups must be [made of whole
/// vectors](vectors_lie_within).
pub fn integer_product_error(
    commands: &mut Commands,
    product: &IntegerProduct,
    operands: &Operands,
    reference: &Buffer<f32>,
    weight: Option<&Buffer<f32>>,
) -> Buffer<f32> {
    assert!(vectors_lie_within(product.n, operands.group_columns));
    match commands.device() {
        Device::Cpu(_) => {
            let (reference, weight) = (reference.host_slice(), weight.map(Buffer::host_slice));
            let sums = cpu::error(product, operands, &reference, weight.as_deref());
            commands.device().upload(&sums)
        }
        Device::Gpu(gpu) => {
            let strategy = product.strategy(gpu);
            let [down, across] =
                [product.m, operands.group_columns].map(|side| side.div_ceil(VECTOR));
            let parts = product.batch[0] * down * across;
            let rows = product.jobs * operands.groups;
            let partial = commands.uninitialized(rows * parts);
            let epilogue = Epilogue::Error { reference, weight };
            let out = Binding::F32(&partial);
            dispatch(commands, strategy, product, operands, epilogue, out);
            sum_rows(commands, rows, parts, &partial)
        }
    }
}

fn dispatch(
    commands: &mut Commands,
    strategy: Strategy,
    product: &IntegerProduct,
    operands: &Operands,
    epilogue: Epilogue,
    out: Binding,
) {
    check_length(product);
    let mut parameters = Parameters {
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
        groups: operands.groups as u32,
        inner_groups: operands.inner_groups as u32,
        group_columns: operands.group_columns as u32,
        has_affine: operands.affine.is_some().into(),
        r1_sign: product.r1_sign(),
        has_residual: 0,
        order_rows: 0,
        image_rows: 0,
        has_weight: 0,
        q: 0.0,
        unused: 0,
    };
    let (mut operand, mut order_or_encoder, mut weight) = (None, None, None);
    let mut gelu = Gelu::default();
    let (number, format) = match epilogue {
        Epilogue::Values(residual) => {
            operand = residual.map(|residual| residual.values);
            let order = residual.and_then(|residual| residual.order);
            order_or_encoder = order.map(|order| order.from);
            parameters.has_residual = operand.is_some().into();
            parameters.order_rows = order.map_or(0, |order| order.from.len() as u32);
            parameters.image_rows = order.map_or(0, |order| order.tokens as u32);
            (0, Format::Uniform)
        }
        Epilogue::Codes(next) => {
            order_or_encoder = Some(next.encoder);
            parameters.q = half_range(next.bits);
            gelu = next.gelu.unwrap_or_default();
            (if next.gelu.is_some() { 2 } else { 1 }, next.format)
        }
        Epilogue::Error {
            reference,
            weight: by,
        } => {
            operand = Some(reference);
            weight = by;
            parameters.has_weight = weight.is_some().into();
            let by_column = operands.group_columns == 1;
            (if by_column { 4 } else { 3 }, Format::Uniform)
        }
    };
    let mut constants = vec![
        ("TWIN", f64::from(u8::from(product.a_format.is_twin()))),
        ("BITS", product.b_width.bits().into()),
        ("EPILOGUE", f64::from(number)),
        ("FORMAT", f64::from(format as u32)),
        gelu::form(gelu),
    ];
    let bindings = [
        Binding::U32(operands.a),
        Binding::U32(operands.b),
        Binding::F32(operands.scales),
        // What isn't there is never read; a binding must be something.
        Binding::F32(operands.affine.unwrap_or(operands.scales)),
        Binding::F32(operand.unwrap_or(operands.scales)),
        Binding::U32(order_or_encoder.unwrap_or(operands.a)),
        Binding::F32(weight.unwrap_or(operands.scales)),
        out,
    ];
    let matrices = product.problems() * product.jobs;
    match strategy {
        Strategy::Registers => {
            let tiles = product.m.div_ceil(TILE[0]) * product.n.div_ceil(TILE[1]);
            let workgroups = (tiles * matrices).div_ceil(WORKGROUP);
            commands.dispatch(&SHADER, &constants, &parameters, &bindings, workgroups);
        }
        Strategy::Tiled(tile) => {
            constants.extend(strategy::constants(tile));
            constants.push(("SLICES", tile.slices.into()));
            let workgroups = strategy::workgroups(tile, product.m, product.n) * matrices;
            let tiled = SHADER.entry_point("tiled");
            commands.dispatch(tiled, &constants, &parameters, &bindings, workgroups);
        }
        Strategy::Cooperative | Strategy::CooperativeInt8 => {
            let dispatch = match strategy {
                Strategy::Cooperative => cooperative::dispatch,
                _ => cooperative_int8::dispatch,
            };
            let is_twin = product.a_format.is_twin();
            dispatch(
                commands,
                &constants,
                is_twin,
                &parameters,
                &bindings,
                matrices,
            );
        }
        Strategy::Separate | Strategy::Fused { .. } => {
            unreachable!("{strategy} is a way to compute attention")
        }
    }
}

fn check_length(product: &IntegerProduct) {
    assert!(
        product.k <= MAX_K,
        "a sum of {} products could wrap",
        product.k
    );
}

/// Computes `r1 + (r2 << shift)` as a float. The exact integer is `upper · 2^shift + lower`; `upper` can't wrap for
/// sums of at most [`MAX_K`] products, and the conversion rounds only what an f32 can't hold.
fn combine(r1: i32, r2: i32, shift: u32) -> f32 {
    let upper = r2 + (r1 >> shift);
    let lower = r1 & ((1 << shift) - 1);
    upper as f32 * (1u32 << shift) as f32 + lower as f32
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
