//! Every kernel: its parameters, its dispatch geometry, and the plain CPU version that is its oracle.
//!
//! `shaders/x.wgsl` and `src/kernels/x.rs` belong together. A kernel's function takes
//! [`Commands`](crate::device::Commands) and buffers of their device; on the CPU it computes at once, on a GPU it
//! appends a dispatch. Shapes are given as `[rows, columns]`, row-major, in elements.

mod add;
mod add_squares;
mod apart;
mod average;
pub mod catalogue;
mod cosine;
mod cosine_backward;
mod cross_entropy_backward;
mod embed;
mod embed_backward;
mod exponential;
mod fake_quantize;
mod float_product;
mod fused_attention;
mod gate;
mod gate_backward;
mod gather_rows;
mod gelu;
mod gelu_backward;
mod geometry;
mod half_product;
mod integer_product;
mod integer_product_cooperative;
mod integer_product_cooperative_int8;
mod layer_norm;
mod layer_norm_backward;
#[cfg(test)]
mod layout_test;
#[cfg(test)]
mod loop_variables_test;
mod mean_tokens;
mod mean_tokens_backward;
mod pack_quads;
mod patches;
mod peak_cooperative;
mod peak_cooperative_int8;
mod peak_copy;
mod peak_f32;
mod peak_int8;
mod permute_tokens;
mod quantize;
mod rotary;
mod row_error;
mod row_maximum;
mod row_sums;
mod rows;
mod scale_columns;
mod similarity;
mod softmax;
mod softmax_backward;
mod strategy;
mod sum_rows;
#[cfg(test)]
mod tint_test;
mod to_half;
mod trial;
mod weighted_error;
mod width;
mod window_softmax;
mod word_order;

pub use crate::format::Format;
pub use add::add;
pub use add_squares::add_squares;
pub use average::average;
use catalogue::Kernel;
pub use cosine::{Cosine, cosine};
pub use cosine_backward::cosine_backward;
pub use cross_entropy_backward::cross_entropy_backward;
pub use embed::{Embed, embed};
pub use embed_backward::embed_backward;
pub use fake_quantize::fake_quantize;
pub(crate) use fake_quantize::fake_quantize_values;
pub use float_product::float_product;
pub use fused_attention::{
    CodedAttention, Destination, Encoding, WindowTerms, attention, attention_by,
    attention_strategy, fuses_attention,
};
pub use gate::gate;
pub use gate_backward::gate_backward;
pub use gather_rows::gather_rows;
pub use gelu::gelu;
pub use gelu_backward::gelu_backward;
pub use geometry::{Lines, Product, View};
pub use half_product::half_product;
pub use integer_product::{
    IntegerProduct, MAX_K, NextCodes, Operands, Residual, affine, integer_product,
    integer_product_codes, integer_product_error, integer_strategy, vectors_lie_within,
};
pub use layer_norm::{LayerNorm, layer_norm, layer_norm_codes};
pub use layer_norm_backward::layer_norm_backward;
pub use mean_tokens::{MeanTokens, mean_tokens};
pub use mean_tokens_backward::mean_tokens_backward;
pub use pack_quads::{PackQuads, pack_quads};
pub use patches::{Patches, patches};
pub use peak_cooperative::{peak_cooperative, peak_cooperative_multiply_adds};
pub use peak_cooperative_int8::peak_cooperative_int8;
pub use peak_copy::peak_copy;
pub use peak_f32::{PeakF32, peak_f32};
pub use peak_int8::{PeakInt8, peak_int8};
pub use permute_tokens::{TokenOrder, permute_tokens};
pub use quantize::{Quantize, RowCodes, quantize};
pub use rotary::{Direction, Rotary, rotary};
pub use row_error::row_error;
pub use row_maximum::{RowMaximum, row_maximum};
pub use scale_columns::scale_columns;
pub use similarity::similarity;
pub use softmax::{softmax, softmax_codes};
pub use softmax_backward::softmax_backward;
pub use sum_rows::sum_rows;
pub use to_half::{ToHalf, to_half};
pub use trial::{
    Elsewhere, INTEGER_STRATEGY_NAMES, STRATEGY_NAMES, adopt, adopt_async, adopt_carefully,
    strategy_of, suits,
};
pub use weighted_error::weighted_error;
pub use width::Width;
pub use window_softmax::{WindowSoftmax, window_softmax, window_softmax_codes};

/// Counts the invocations of one workgroup, in every kernel.
const WORKGROUP: usize = 64;

/// Counts the elements of a vector, where a kernel takes its buffers in vectors; the device allots whole ones.
const VECTOR: usize = 4;

/// Counts the elements that one task of a CPU version takes at least: fewer cost more to hand out than to compute.
const PER_TASK: usize = 4096;

macro_rules! kernels {
    (@timed $name:ident timed) => { Some($name::TIMED) };
    (@timed $name:ident) => { None };
    ($($name:ident $(($timed:ident))?)*) => {
        /// Lists every kernel, in the order of their names.
        pub static KERNELS: &[Kernel] = &[$(Kernel {
            name: stringify!($name),
            text: include_str!(concat!("../../shaders/", stringify!($name), ".wgsl")),
            mistake: $name::MISTAKE,
            cases: $name::cases,
            timed: kernels!(@timed $name $($timed)?),
        }),*];

        /// Lists the kernels' shaders with all their pieces, in the same order.
        #[cfg(test)]
        static SHADERS: &[&crate::device::Shader] = &[$(&$name::SHADER),*];
    };
}

kernels! {
    add
    add_squares
    average
    cosine
    cosine_backward
    cross_entropy_backward
    embed
    embed_backward
    fake_quantize
    float_product (timed)
    fused_attention (timed)
    gate
    gate_backward
    gather_rows
    gelu (timed)
    gelu_backward
    half_product (timed)
    integer_product (timed)
    integer_product_cooperative
    integer_product_cooperative_int8
    layer_norm (timed)
    layer_norm_backward
    mean_tokens
    mean_tokens_backward
    pack_quads
    patches
    peak_cooperative
    peak_cooperative_int8
    peak_copy
    peak_f32
    peak_int8
    permute_tokens
    quantize (timed)
    rotary
    row_error
    row_maximum
    scale_columns
    similarity
    softmax (timed)
    softmax_backward
    sum_rows
    to_half (timed)
    weighted_error
    window_softmax (timed)
}
