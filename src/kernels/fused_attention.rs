//! Attention from codes of q, k and v on: the scores q kᵀ, their softmax, its codes p, and p v. One kernel computes all of it
//! and keeps scores and p in workgroup memory; the kernels of each step, one after the other, give the same bits.

pub(super) mod cases;
mod timed;
pub(super) use cases::{MISTAKE, cases};
pub(super) use timed::TIMED;

use super::geometry::View;
use super::integer_product::{
    IntegerProduct, NextCodes, Operands, integer_product, integer_product_codes,
};
use super::quantize::RowCodes;
use super::rows;
use super::softmax::softmax_codes;
use super::width::Width;
use super::window_softmax::{WindowSoftmax, window_softmax_codes};
use crate::device::{Binding, Buffer, Commands, Device, Shader, Strategy};
use crate::format::{Format, ProductRule, Scale, formats_wgsl, half_range};
use bytemuck::{Pod, Zeroable};

pub(crate) static SHADER: Shader = Shader {
    name: "fused_attention",
    source: concat!(
        include_str!("../../shaders/shared/view.wgsl"),
        formats_wgsl!(),
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/fused_attention.wgsl"),
    ),
};

/// Counts the words of workgroup memory that scores may take: WebGPU's default limit, without what the lanes of rows
/// exchange.
const SCORES: usize = (16 << 10) / size_of::<u32>() - rows::MOST_LANES;
/// Counts the queries of the smallest tile: a vector of them.
const LEAST_QUERIES: usize = 4;

/// Says how values become codes; where there are several encoders, heads have one each.
#[derive(Clone, Copy, Debug)]
pub struct Encoding<'a> {
    /// The codes' format.
    pub format: Format,
    /// Bit width, 2 to 8.
    pub bits: u32,
    /// The records of the [encoders](Format::encoders).
    pub encoders: &'a [u32],
}

/// Holds what is added to the scores of attention within windows, once these have been multiplied by the factor.
#[derive(Clone, Copy)]
pub struct WindowTerms<'a> {
    /// `[heads, tokens, tokens]`
    pub bias: &'a Buffer<f32>,
    /// `[masks, tokens, tokens]`: masks that take turns along the windows.
    pub mask: &'a Buffer<f32>,
    /// Counts the masks.
    pub masks: usize,
}

/// Describes attention of codes, which lie as [`quantize`](super::quantize) gives them.
#[derive(Clone, Copy)]
pub struct CodedAttention<'a> {
    /// Images, or windows of all of them, and heads.
    pub batch: [usize; 2],
    /// Queries of a matrix, and keys.
    pub tokens: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Codes of the queries, rows of a left operand.
    pub q: &'a Buffer<u32>,
    /// Their format.
    pub q_format: Format,
    /// Codes of the keys, columns of a right operand.
    pub k: &'a Buffer<u32>,
    /// Codes of the values, columns of a right operand that is summed over tokens.
    pub v: &'a Buffer<u32>,
    /// What one unit of q kᵀ is worth in each head, and the left shift of a twin's R2.
    pub score_units: &'a [Scale],
    /// What scores are multiplied by before their softmax; positive.
    pub factor: f32,
    /// What is added to them.
    pub windows: Option<WindowTerms<'a>>,
    /// How probabilities become p.
    pub p: Encoding<'a>,
    /// What one unit of p v is worth in each head, and the left shift of a twin's R2.
    pub value_units: &'a [Scale],
    /// Where the results of each head lie.
    pub out: View,
}

/// Says where results go.
#[derive(Clone, Copy)]
pub enum Destination<'a> {
    /// The values go to this buffer; elements that the view doesn't name keep theirs.
    Values(&'a Buffer<f32>),
    /// Their codes go there as [`integer_product_codes`] lays them out; the view's strides count words.
    Codes(Encoding<'a>, &'a Buffer<u32>),
}

/// Says how a tile of queries is computed on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Division {
    queries: usize,
    rows: usize,
    lanes: usize,
    /// Vectors of keys of one invocation, which has four queries.
    key_vectors: usize,
    /// Queries of one invocation in p v, and its vectors of columns.
    values: [usize; 2],
}

impl Division {
    /// Divides tiles of `queries` queries, or fewer where the scores of so many `tokens` would not fit workgroup memory;
    /// `None` where those of four don't.
    fn new(device: &Device, queries: usize, tokens: usize) -> Option<Self> {
        let most = SCORES / stride(tokens);
        let mut queries = queries;
        while queries > most {
            queries /= 2;
        }
        if queries < LEAST_QUERIES {
            return None;
        }
        Some(if device.shares_rows() {
            let rows = queries.min(rows::MOST_LANES / rows::LANES);
            Self {
                queries,
                rows,
                lanes: rows::LANES,
                key_vectors: 1,
                values: [1, 1],
            }
        } else {
            // A software driver reads few words for many dots. Its vectors have eight lanes or more, which products fill even
            // where there are fewer rows.
            Self {
                queries,
                rows: queries.max(8),
                lanes: 1,
                key_vectors: 3,
                values: [4, 2],
            }
        })
    }

    /// Counts the words of workgroup memory for scores: a power of two where that fits, so that few kernels are compiled.
    fn scores(&self, tokens: usize) -> usize {
        (self.queries * stride(tokens))
            .next_power_of_two()
            .min(SCORES)
    }
}

/// Counts the scores of a query, in whole vectors.
fn stride(tokens: usize) -> usize {
    tokens.next_multiple_of(4)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    out: View,
    matrices: u32,
    heads: u32,
    tokens: u32,
    head_dim: u32,
    masks: u32,
    factor: f32,
    p_q: f32,
    next_q: f32,
    p_encoders: u32,
    p_groups: u32,
    next_encoder: u32,
    stride: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    out,
    matrices,
    heads,
    tokens,
    head_dim,
    masks,
    factor,
    p_q,
    next_q,
    p_encoders,
    p_groups,
    next_encoder,
    stride,
});

impl CodedAttention<'_> {
    fn matrices(&self) -> usize {
        self.batch[0] * self.batch[1]
    }
}

/// Returns how `device` computes attention: by one kernel or by several; `None` on the CPU.
pub fn attention_strategy(device: &Device) -> Option<Strategy> {
    match device.strategy(SHADER.name)? {
        fused @ Strategy::Fused { .. } => Some(fused),
        _ => Some(Strategy::Separate),
    }
}

/// Says whether `device` computes attention over so many tokens, with queries in `format`, by one kernel.
pub fn fuses_attention(device: &Device, tokens: usize, format: Format) -> bool {
    match attention_strategy(device) {
        Some(Strategy::Fused { queries }) => can_be_fused(device, queries, tokens, format),
        _ => false,
    }
}

fn can_be_fused(device: &Device, queries: u32, tokens: usize, format: Format) -> bool {
    adds_r1(format) && Division::new(device, queries as usize, tokens).is_some()
}

/// Says whether R1 of a format, if it has one, holds magnitudes that are added, as the kernel takes them.
fn adds_r1(format: Format) -> bool {
    matches!(
        format.rule(),
        ProductRule::Signed | ProductRule::Ranges { r1_sign: 1 }
    )
}

/// Computes attention as the device's strategy says.
pub fn attention(commands: &mut Commands, what: &CodedAttention, to: Destination) {
    let strategy = attention_strategy(commands.device());
    attention_by(commands, strategy.unwrap_or(Strategy::Separate), what, to);
}

/// Computes attention by `strategy`. Where the scores of four queries don't fit workgroup memory, these are separate kernels
/// all the same.
pub fn attention_by(
    commands: &mut Commands,
    strategy: Strategy,
    what: &CodedAttention,
    to: Destination,
) {
    match strategy {
        Strategy::Fused { queries }
            if can_be_fused(commands.device(), queries, what.tokens, what.q_format) =>
        {
            fused_attention(commands, what, queries as usize, to);
        }
        _ => separate_attention(commands, what, to),
    }
}

/// Computes attention by one kernel, `queries` at a time, a power of two from 4 on; on the CPU by several.
///
/// # Panics
/// If the scores of four queries don't fit workgroup memory.
pub(super) fn fused_attention(
    commands: &mut Commands,
    what: &CodedAttention,
    queries: usize,
    to: Destination,
) {
    if let Device::Cpu(_) = commands.device() {
        return separate_attention(commands, what, to);
    }
    let division = Division::new(commands.device(), queries, what.tokens);
    let division = division.expect("fewer tokens, or several kernels");
    let (next, out) = match to {
        Destination::Values(out) => (None, Binding::F32(out)),
        Destination::Codes(next, out) => (Some(next), Binding::U32(out)),
    };
    let mut constants: Vec<u32> = Vec::new();
    for (score, value) in what.score_units.iter().zip(what.value_units) {
        for unit in [score, value] {
            constants.extend([unit.scale.to_bits(), (unit.shift as f32).to_bits()]);
        }
    }
    let p_encoders = constants.len() as u32;
    constants.extend(what.p.encoders);
    let next_encoder = constants.len() as u32;
    constants.extend(next.map_or(&[][..], |next| next.encoders));
    let constants = commands.device().upload(&constants);
    let parameters = Parameters {
        out: what.out,
        matrices: what.matrices() as u32,
        heads: what.batch[1] as u32,
        tokens: what.tokens as u32,
        head_dim: what.head_dim as u32,
        masks: what.windows.map_or(0, |windows| windows.masks as u32),
        factor: what.factor,
        p_q: half_range(what.p.bits),
        next_q: next.map_or(0.0, |next| half_range(next.bits)),
        p_encoders,
        p_groups: (what.p.encoders.len() / what.p.format.encoder_words()) as u32,
        next_encoder,
        stride: stride(what.tokens) as u32,
    };
    let flag = |on: bool| f64::from(u8::from(on));
    let number = |format: Format| f64::from(format as u32);
    let overrides = [
        ("QUERY_TWIN", flag(what.q_format.is_twin())),
        ("TWIN", flag(what.p.format.is_twin())),
        ("WINDOWS", flag(what.windows.is_some())),
        ("CODES", flag(next.is_some())),
        ("FORMAT", number(what.p.format)),
        ("NEXT_FORMAT", next.map_or(0.0, |next| number(next.format))),
        ("TILE", division.queries as f64),
        ("SCORES", division.scores(what.tokens) as f64),
        ("KEY_VECTORS", division.key_vectors as f64),
        ("QUERIES", division.values[0] as f64),
        ("COLUMN_VECTORS", division.values[1] as f64),
        ("ROWS", division.rows as f64),
        ("LANES", division.lanes as f64),
    ];
    // What isn't there is never read; a binding must be something.
    let [bias, mask] = match what.windows {
        Some(WindowTerms { bias, mask, .. }) => [bias, mask].map(Binding::F32),
        None => [&constants; 2].map(Binding::U32),
    };
    commands.dispatch(
        &SHADER,
        &overrides,
        &parameters,
        &[
            Binding::U32(what.q),
            Binding::U32(what.k),
            Binding::U32(what.v),
            Binding::U32(&constants),
            bias,
            mask,
            out,
        ],
        what.matrices() * what.tokens.div_ceil(division.queries),
    );
}

/// Computes attention by the kernels of its steps.
pub(super) fn separate_attention(commands: &mut Commands, what: &CodedAttention, to: Destination) {
    let [outer, heads] = what.batch;
    let CodedAttention {
        tokens, head_dim, ..
    } = *what;
    let device = commands.device().clone();
    let units = |units: &[Scale]| {
        let pairs = units
            .iter()
            .flat_map(|unit| [unit.scale, unit.shift as f32]);
        device.upload(&pairs.collect::<Vec<_>>())
    };
    let matrix = tokens * tokens;
    let product = IntegerProduct {
        batch: what.batch,
        m: tokens,
        n: tokens,
        k: head_dim,
        out: View::new(0, [heads * matrix, matrix], tokens, 1),
        jobs: 1,
        a_per_job: false,
        b_per_job: false,
        job_stride: what.matrices() * matrix,
        a_format: what.q_format,
        b_width: Width::Eight,
    };
    let score_units = units(what.score_units);
    let operands = Operands {
        a: what.q,
        b: what.k,
        scales: &score_units,
        groups: heads,
        inner_groups: 1,
        group_columns: tokens,
        affine: None,
    };
    let scores = commands.uninitialized(product.job_stride);
    integer_product(commands, &product, &operands, None, &scores);

    let codes = RowCodes {
        format: what.p.format,
        bits: what.p.bits,
        encoders: &device.upload(what.p.encoders),
        matrix_rows: tokens,
        groups: what.p.encoders.len() / what.p.format.encoder_words(),
    };
    let rows = what.matrices() * tokens;
    let p = match what.windows {
        None => softmax_codes(commands, rows, tokens, what.factor, &scores, &codes),
        Some(WindowTerms { bias, mask, masks }) => {
            let shape = WindowSoftmax {
                images: outer / masks,
                windows: masks,
                heads,
                tokens,
                factor: what.factor,
            };
            window_softmax_codes(commands, &shape, &scores, bias, mask, &codes)
        }
    };

    let product = IntegerProduct {
        n: head_dim,
        k: tokens,
        out: what.out,
        a_format: what.p.format,
        ..product
    };
    let value_units = units(what.value_units);
    let operands = Operands {
        a: &p,
        b: what.v,
        scales: &value_units,
        group_columns: head_dim,
        ..operands
    };
    match to {
        Destination::Values(out) => integer_product(commands, &product, &operands, None, out),
        Destination::Codes(next, out) => {
            let next = NextCodes {
                gelu: None,
                format: next.format,
                bits: next.bits,
                encoder: &device.upload(next.encoders),
            };
            integer_product_codes(commands, &product, &operands, &next, out);
        }
    }
}

/// Computes a small attention by the device's strategy, to try it: the values `[tokens, heads, head_dim]`.
pub(super) fn probe(commands: &mut Commands) -> Buffer<f32> {
    let (heads, tokens, head_dim) = (3, 70, 48);
    let device = commands.device().clone();
    // A linear congruential generator, of which the upper bits are good enough.
    let mut state = 1u32;
    let mut operand = |rows: usize, columns: usize| {
        let words = heads * columns.div_ceil(4) * rows.next_multiple_of(4);
        let words = (0..words).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8 ^ state << 16
        });
        device.upload(&words.collect::<Vec<u32>>())
    };
    let (q, k) = (operand(tokens, head_dim), operand(tokens, head_dim));
    let v = operand(head_dim, tokens);
    let twin = Scale {
        scale: 1.0 / 2048.0,
        shift: 4,
    };
    let what = CodedAttention {
        batch: [1, heads],
        tokens,
        head_dim,
        q: &q,
        q_format: Format::Uniform,
        k: &k,
        v: &v,
        score_units: &vec![Scale::uniform(1.0 / 2048.0); heads],
        factor: 0.125,
        windows: None,
        p: Encoding {
            format: Format::SoftmaxTwin,
            bits: 8,
            encoders: &Format::SoftmaxTwin.encoders(&[twin], &[]),
        },
        value_units: &vec![twin; heads],
        out: View::new(0, [0, head_dim], heads * head_dim, 1),
    };
    let out = commands.uninitialized(tokens * heads * head_dim);
    attention(commands, &what, Destination::Values(&out));
    out
}
