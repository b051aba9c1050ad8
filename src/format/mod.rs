//! How codes stand for values.
//!
//! A format is a file here and a piece of WGSL of the same name in `shaders/shared/formats`, which agree bit for bit. What
//! a quantizer has to know of a group of values, scales or a table, is the group's *encoder* (`encoder.rs`).
//! Whoever needs to know something of a format asks it: kernels encode with it, the search takes its candidates, the
//! plan knows by it which operands it is for. What is left to do for a new one is to list it in this file.

mod cells;
mod encoder;
mod gelu;
mod gelu_twin;
mod scale;
mod signed_table;
mod softmax_twin;
mod table;
mod twin_table;
mod uniform;

pub use encoder::Decoder;
pub use gelu::Gelu;
pub use scale::{MAX_SHIFT, Scale};
pub use table::{Lanes, Table};

use serde::{Deserialize, Serialize};

/// Says how a code stands for a value (paper, section 3.1). `q = 2^(bits - 1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Signed code `c` in `-q..q`, value `c · scale`.
    Uniform,
    /// Range flag and magnitude `u` in `0..q`: R1 is `u · scale_1`, R2 is `u · scale_2`; for values in 0..=1.
    SoftmaxTwin,
    /// Range flag and magnitude `u` in `0..q`: R1 is `-u · scale_1`, R2 is `u · scale_2`.
    GeluTwin,
    /// One of the levels of a [`Table`]: signed lane `l` of 8 bits, value `l · scale + offset`.
    Table,
    /// One of the levels of a [`Table`]: range flag and magnitude `u` of 7 bits, R1 is `u · scale_1 + offset`, R2 is
    /// `u · scale_2 + offset`. For left operands.
    TwinTable,
}

/// Evaluates an expression for the type that a [`Format`] stands for, as a constant.
macro_rules! by_format {
    ($format:expr, $F:ident => $body:expr) => {{
        #[allow(unused_imports)]
        use $crate::format::CodeFormat as _;
        match $format {
            $crate::format::Format::Uniform => {
                type $F = $crate::format::Uniform;
                $body
            }
            $crate::format::Format::SoftmaxTwin => {
                type $F = $crate::format::SoftmaxTwin;
                $body
            }
            $crate::format::Format::GeluTwin => {
                type $F = $crate::format::GeluTwin;
                $body
            }
            $crate::format::Format::Table => {
                type $F = $crate::format::SignedTable;
                $body
            }
            $crate::format::Format::TwinTable => {
                type $F = $crate::format::TwinTable;
                $body
            }
        }
    }};
}
pub(crate) use by_format;
pub(crate) use encoder::Encoder;
pub(crate) use gelu_twin::GeluTwin;
pub(crate) use signed_table::SignedTable;
pub(crate) use softmax_twin::SoftmaxTwin;
pub(crate) use twin_table::TwinTable;
pub(crate) use uniform::Uniform;

/// Joins the shaders' text of all formats: `encoder_of` and `quantize`, of the format that the constant `FORMAT` says, and
/// `encoder_at` and `quantize_in`, of any.
/// They read the encoders by a function of the shader's own, `encoder_word`.
macro_rules! formats_wgsl {
    () => {
        concat!(
            include_str!("../../shaders/shared/codes.wgsl"),
            include_str!("../../shaders/shared/formats/uniform.wgsl"),
            include_str!("../../shaders/shared/formats/softmax_twin.wgsl"),
            include_str!("../../shaders/shared/formats/gelu_twin.wgsl"),
            include_str!("../../shaders/shared/formats/signed_table.wgsl"),
            include_str!("../../shaders/shared/formats/twin_table.wgsl"),
            $crate::format::dispatch_wgsl!(
                0,
                "uniform",
                1,
                "softmax_twin",
                2,
                "gelu_twin",
                3,
                "signed_table",
                4,
                "twin_table"
            ),
        )
    };
}
pub(crate) use formats_wgsl;

/// Writes the shader functions that choose between formats by their numbers.
macro_rules! dispatch_wgsl {
    ($($number:literal, $name:literal),*) => {
        concat!(
            "\nfn words_of_format(format: u32) -> u32 {\n",
            $("    if format == ", $number, "u {\n        return ", $name, "_words;\n    }\n",)*
            "    return 0u;\n}\n",
            "\nfn lanes_in_format(format: u32, x: vec4<f32>, encoder: Encoder, q: f32) -> vec4<u32> {\n",
            $("    if format == ", $number, "u {\n        return ", $name, "_lanes(x, encoder, q);\n    }\n",)*
            "    return vec4(0u);\n}\n",
        )
    };
}
pub(crate) use dispatch_wgsl;

/// Lists the files of the formats' text, by their names below `shaders`.
#[cfg(feature = "verify")]
pub(crate) const SHADERS: &[(&str, &str)] = &[
    (
        "shared/formats/uniform",
        include_str!("../../shaders/shared/formats/uniform.wgsl"),
    ),
    (
        "shared/formats/softmax_twin",
        include_str!("../../shaders/shared/formats/softmax_twin.wgsl"),
    ),
    (
        "shared/formats/gelu_twin",
        include_str!("../../shaders/shared/formats/gelu_twin.wgsl"),
    ),
    (
        "shared/formats/signed_table",
        include_str!("../../shaders/shared/formats/signed_table.wgsl"),
    ),
    (
        "shared/formats/twin_table",
        include_str!("../../shaders/shared/formats/twin_table.wgsl"),
    ),
];

/// Says what kind of values an operand has, as far as formats are made for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Any values.
    Any,
    /// Probabilities, which a softmax gives.
    Probabilities,
    /// The results of a form of GELU.
    AfterGelu(Gelu),
}

impl Values {
    /// Returns the smallest value that there can be.
    pub fn minimum(self) -> f64 {
        match self {
            Self::Any => f64::NEG_INFINITY,
            Self::Probabilities => 0.0,
            Self::AfterGelu(gelu) => gelu.minimum(),
        }
    }
}

/// Describes codes that stand for multiples of one scale.
#[derive(Clone, Debug, PartialEq)]
pub struct CodeRange {
    /// The range's name.
    pub name: &'static str,
    /// The multiples, rising, of `scale_1` or, in the second range, of `scale_2`.
    pub multiples: Vec<i32>,
    /// Whether this is R2 of a twin.
    pub second: bool,
}

/// Says where among the codes a value's code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whether the value lies beyond all codes by more than half a scale (that of its range), so that the nearest one
    /// stands for it.
    pub clipped: bool,
    /// Whether the code is one of R2.
    pub in_r2: bool,
}

/// Says how an integer product reads a format's lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProductRule {
    /// The lanes are the integers.
    Signed,
    /// Lanes of R1 are magnitudes, multiplied by a sign; those whose top bit is set are R2's and shifted left.
    Ranges {
        /// The sign of R1: 1 or -1.
        r1_sign: i32,
    },
}

/// Implements a format.
pub(crate) trait CodeFormat {
    /// The format's name in files.
    const NAME: &'static str;
    /// The format's name in text.
    const IN_WORDS: &'static str;
    /// How the format's codes are multiplied.
    const RULE: ProductRule;
    /// Whether the format's scale has to reach negative values too.
    const REACHES_NEGATIVE: bool;
    /// How lanes are integers, where a table has them.
    const LANES: Option<Lanes> = None;
    /// The largest left shift m of R2.
    const MAX_SHIFT: u32 = match Self::RULE {
        ProductRule::Signed => 0,
        ProductRule::Ranges { .. } => MAX_SHIFT,
    };

    /// The words of an encoder's record.
    const ENCODER_WORDS: usize = match Self::LANES {
        None => encoder::INVERSES,
        Some(lanes) => encoder::HEAD + lanes.grids() as usize * lanes.cells(),
    };

    /// Says whether the format is for these values.
    fn is_for(values: Values) -> bool;

    /// Encodes a value as an 8-bit lane. Clamping to integers before rounding gives what clamping after it gives.
    fn encode(x: f32, encoder: Encoder, q: f32) -> u8;

    /// Returns what says where a value's code is. Whole numbers are even where q is, so that a half above the largest
    /// code q - 1 is rounded up to q and one below the smallest, -q, is rounded to it.
    fn places(encoder: Encoder, q: f32) -> impl Fn(f32) -> Place;

    /// Lists what the codes stand for, in a table's format those of `lanes`.
    fn ranges(q: i32, lanes: &[u8]) -> Vec<CodeRange>;

    /// Lists the scales that a search chooses from for these values, where `spread` are fractions of the scale that reaches
    /// the largest one. Tables are not searched: they have none.
    fn candidates(bits: u32, values: Values, spread: &mut dyn Iterator<Item = f64>) -> Vec<Scale>;
}

impl Format {
    /// Lists all formats, by their numbers in shaders.
    pub const ALL: [Self; 5] = [
        Self::Uniform,
        Self::SoftmaxTwin,
        Self::GeluTwin,
        Self::Table,
        Self::TwinTable,
    ];

    /// Returns the format's name in files.
    pub fn name(self) -> &'static str {
        by_format!(self, F => F::NAME)
    }

    /// Returns the format's name in text.
    pub fn in_words(self) -> &'static str {
        by_format!(self, F => F::IN_WORDS)
    }

    /// Says whether codes carry a range flag in the top bit of their lane.
    pub fn is_twin(self) -> bool {
        self.rule() != ProductRule::Signed
    }

    /// Says how the lanes of a table are integers, where the format's codes are looked up in one.
    pub fn lanes(self) -> Option<Lanes> {
        by_format!(self, F => F::LANES)
    }

    /// Returns the largest left shift m of R2 that the format allows.
    pub fn max_shift(self) -> u32 {
        by_format!(self, F => F::MAX_SHIFT)
    }

    /// Returns the largest magnitude of a lane of codes of `bits` bits, as it is multiplied before any shift.
    pub fn largest_lane(self, bits: u32) -> u32 {
        match self.lanes() {
            None => 1 << (bits - 1),
            Some(Lanes::Signed) => 128,
            Some(Lanes::Ranges) => 127,
        }
    }

    /// Says how the format's codes are multiplied.
    pub fn rule(self) -> ProductRule {
        by_format!(self, F => F::RULE)
    }

    /// Says whether the format is for these values.
    pub fn is_for(self, values: Values) -> bool {
        by_format!(self, F => F::is_for(values))
    }

    /// Says whether the format's scale has to reach negative values too.
    pub fn reaches_negative(self) -> bool {
        by_format!(self, F => F::REACHES_NEGATIVE)
    }

    /// Lists what codes of `bits` bits stand for; a table's have these `lanes`, others none.
    pub fn ranges(self, bits: u32, lanes: &[u8]) -> Vec<CodeRange> {
        by_format!(self, F => F::ranges(1 << (bits - 1), lanes))
    }

    /// Lists the scales that a search chooses from for codes of `bits` bits of these values, where `spread` are fractions
    /// of the scale that reaches the largest one.
    pub fn candidates(
        self,
        bits: u32,
        values: Values,
        mut spread: impl Iterator<Item = f64>,
    ) -> Vec<Scale> {
        by_format!(self, F => F::candidates(bits, values, &mut spread))
    }
}

/// Returns q = 2^(bits - 1) as the kernels use it.
pub(crate) fn half_range(bits: u32) -> f32 {
    (1u32 << (bits - 1)) as f32
}

/// Rounds a float of magnitude below 2^22 half-to-even to an integer when added to it: 1.5 · 2^23. The integer's two's
/// complement is then in the low bits of the sum. Faster than a call of the library's rounding, and the same result.
const ROUNDER: f32 = 12_582_912.0;

/// Returns the low byte of `round(x)`.
#[inline(always)]
fn rounded(x: f32) -> u8 {
    (x + ROUNDER).to_bits() as u8
}

/// Encodes a value as a lane of R2.
#[inline(always)]
fn in_r2(x: f32, inverse_2: f32, q: f32) -> u8 {
    // A clamp checks its limits, which in a loop keeps compilers from vectors.
    0x80 | rounded((x * inverse_2).max(0.0).min(q - 1.0))
}

/// Describes R2 of a twin, whose values are positive.
fn second_range(q: i32) -> CodeRange {
    CodeRange {
        name: "R2",
        multiples: (0..q).collect(),
        second: true,
    }
}
