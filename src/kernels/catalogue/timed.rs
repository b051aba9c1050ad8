//! What of a kernel is timed: its work at a product of a network, or at one of given sides, on random operands.

use super::Random;
use crate::device::{Buffer, Commands, Device, Strategy};
use crate::format::{Format, Gelu, Scale, Table};
use crate::kernels::{Product, RowCodes, gelu, softmax};
use serde::Serialize;
use std::sync::Arc;

/// Counts the bits of codes. A lane has eight however many are used.
pub(in crate::kernels) const BITS: u32 = 8;

/// Describes how a kernel is timed.
pub struct Timed {
    /// What it computes, in a few words.
    pub about: &'static str,
    /// Lists what it does at a product; nothing where it has nothing to do.
    pub exercises: fn(&NetworkProduct) -> Vec<Exercise>,
}

/// Describes a product that kernels are timed at. Those that are no products take its left operand.
#[derive(Clone, Copy, Debug)]
pub struct NetworkProduct {
    /// The product, A · B, of a batch.
    pub product: Product,
    /// Counts the elements of the buffers that A and B lie in.
    pub lens: [usize; 2],
    /// Whether a bias is added.
    pub has_bias: bool,
    /// What there is besides `uniform` for A's codes, a softmax's or a GELU's output.
    pub twin: Option<Format>,
    /// What a network in integers does with the values.
    pub epilogue: Epilogue,
    /// Where it stands.
    pub role: Role,
}

/// Says what a product is in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It stands in none: its sides were named. What stands in one in some formats is timed in all.
    Alone,
    /// An activation times a weight.
    Linear {
        /// Whether the activation comes from a LayerNorm.
        after_norm: bool,
    },
    /// Attention's scores, q · kᵀ.
    Scores,
    /// Attention's result, p · v, M queries of K tokens in each head.
    Context {
        /// How many windows an image has, where attention is within some.
        windows: Option<usize>,
        /// Whether there are fewer queries than tokens.
        is_pooling: bool,
    },
}

/// Says what an integer product does with its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Epilogue {
    /// It writes the values.
    Values,
    /// It adds the residual stream to the values.
    Residual,
    /// It writes the codes of the next product.
    Codes,
    /// It writes the codes of the values' GELU.
    GeluCodes,
}

/// Tells apart what a kernel does at one product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variant {
    /// The format of the left operand's codes, where there are some; of the result's, where a kernel of rows writes
    /// codes.
    pub format: Option<Format>,
    /// Of an integer product: the bits that a code of its right operand is stored in.
    pub weight_bits: Option<u32>,
    /// Of an integer product: what it does with its values.
    pub epilogue: Option<Epilogue>,
}

/// Says how much an exercise computes or moves, and so which of a device's ceilings there is for it.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// Multiply-adds of floats.
    Floats(u64),
    /// Multiply-adds of codes, in the way that the device multiplies codes in.
    Codes(u64),
    /// Multiply-adds of codes, four at a time and never in matrices.
    Dots(u64),
    /// Bytes of the operands and of the results, each read or written once.
    Bytes(u64),
}

/// Appends a kernel's work, on operands that it holds, to commands.
pub type Launch = Box<dyn Fn(&mut Commands)>;

/// Holds work that is ready to be timed.
pub struct Prepared {
    /// Appends it to commands.
    pub run: Launch,
    /// Candidates of a search's scan; 1 otherwise.
    pub jobs: usize,
}

type Prepare = Arc<dyn Fn(&Device, Option<Strategy>) -> Prepared>;

/// Describes something that a kernel is timed at.
#[derive(Clone)]
pub struct Exercise {
    /// What tells it apart from the kernel's others there.
    pub variant: Variant,
    /// `[matrices, M, N, K]` of a product, `[matrices, tokens, features]` of attention, else `[rows, columns]` of the
    /// left operand.
    pub shape: Vec<usize>,
    /// What it comes to, for each job.
    pub amount: Amount,
    /// Counts the elements of the largest matrix.
    pub largest: usize,
    /// The ways to compute it that are timed; empty where there is one, or where the device's own is timed.
    pub strategies: &'static [Strategy],
    needs_f16: bool,
    prepare: Prepare,
}

impl Exercise {
    /// Describes what `prepare` prepares on a device, by a strategy or in the device's own way.
    pub fn new(
        variant: Variant,
        shape: Vec<usize>,
        amount: Amount,
        largest: usize,
        prepare: impl Fn(&Device, Option<Strategy>) -> Prepared + 'static,
    ) -> Self {
        Self {
            variant,
            shape,
            amount,
            largest,
            strategies: &[],
            needs_f16: false,
            prepare: Arc::new(prepare),
        }
    }

    /// Describes a product, or what is as long as one.
    pub(in crate::kernels) fn product(
        at: &NetworkProduct,
        variant: Variant,
        amount: fn(u64) -> Amount,
        prepare: impl Fn(&Device) -> Launch + 'static,
    ) -> Self {
        let amount = amount(at.product.multiply_adds());
        Self::new(
            variant,
            at.sides(),
            amount,
            at.largest(),
            move |device, _| prepare(device).into(),
        )
    }

    /// Describes a kernel that reads the rows of A, and writes as many floats, or codes in `format`.
    pub(in crate::kernels) fn of_rows(
        at: &NetworkProduct,
        format: Option<Format>,
        prepare: impl Fn(&Device) -> Launch + 'static,
    ) -> Self {
        let [rows, columns] = at.rows();
        let written = match format {
            None => columns * size_of::<f32>(),
            Some(_) => columns.next_multiple_of(4),
        };
        let bytes = rows * (columns * size_of::<f32>() + written);
        let variant = Variant {
            format,
            ..Variant::default()
        };
        Self::new(
            variant,
            vec![rows, columns],
            Amount::Bytes(bytes as u64),
            at.largest(),
            move |device, _| prepare(device).into(),
        )
    }

    /// Times it by each of these strategies.
    pub(in crate::kernels) fn by(self, strategies: &'static [Strategy]) -> Self {
        Self { strategies, ..self }
    }

    /// Restricts it to devices that have f16.
    pub(in crate::kernels) fn in_f16(self) -> Self {
        Self {
            needs_f16: true,
            ..self
        }
    }

    /// Says whether `device` has what it computes in.
    pub fn runs_on(&self, device: &Device) -> bool {
        !self.needs_f16 || device.has_f16()
    }

    /// Makes operands on `device`, and returns what is to be timed: by `strategy`, or in the device's own way.
    pub fn prepare(&self, device: &Device, strategy: Option<Strategy>) -> Prepared {
        (self.prepare)(device, strategy)
    }
}

impl From<Launch> for Prepared {
    fn from(run: Launch) -> Self {
        Self { run, jobs: 1 }
    }
}

/// Holds random operands of a product.
pub(crate) struct Operands {
    pub a: Buffer<f32>,
    /// The other activation, or a weight.
    pub b: Buffer<f32>,
    pub bias: Option<Vec<f32>>,
}

impl NetworkProduct {
    /// Returns `[matrices, M, N, K]`.
    pub fn sides(&self) -> Vec<usize> {
        let Product { m, n, k, .. } = self.product;
        vec![self.product.problems(), m, n, k]
    }

    /// Counts the rows and the columns of all of A's matrices.
    pub(in crate::kernels) fn rows(&self) -> [usize; 2] {
        [self.product.problems() * self.product.m, self.product.k]
    }

    /// Counts the elements of the largest of A, B and O.
    pub fn largest(&self) -> usize {
        let [a, b] = self.lens;
        a.max(b).max(self.out_len())
    }

    pub(in crate::kernels) fn out_len(&self) -> usize {
        self.product.problems() * self.product.m * self.product.n
    }

    /// Counts the groups of A or B, which have a scale each: heads have, with weights all is one group.
    pub(in crate::kernels) fn groups(&self) -> usize {
        match self.has_weight() {
            true => 1,
            false => self.product.batch[1],
        }
    }

    /// Says whether B is a weight.
    pub(in crate::kernels) fn has_weight(&self) -> bool {
        matches!(self.role, Role::Alone | Role::Linear { .. })
    }

    /// Lists the formats that A's codes are in.
    pub(in crate::kernels) fn formats(&self) -> Vec<Format> {
        match self.role {
            Role::Alone => Format::ALL.to_vec(),
            _ => std::iter::once(Format::Uniform).chain(self.twin).collect(),
        }
    }

    /// Makes random operands. The left one is what a twin in `format` stands for, the output of a softmax or a GELU.
    pub(crate) fn operands(&self, device: &Device, format: impl Into<Option<Format>>) -> Operands {
        let mut random = Random::new(0);
        let mut bell = |len| random.bell(len, 0.0, 1.0);
        let [a, b] = self.lens.map(|len| device.upload(&bell(len)));
        let bias = self.has_bias.then(|| bell(self.product.n));
        let commands = &mut Commands::new(device);
        let width = self.product.k;
        let a = match format.into() {
            Some(Format::SoftmaxTwin) => softmax(commands, a.len() / width, width, 1.0, &a),
            Some(Format::GeluTwin) => gelu(commands, Gelu::Exact, &a),
            _ => a,
        };
        Operands { a, b, bias }
    }
}

impl Epilogue {
    /// Returns the epilogue's name, as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Residual => "residual",
            Self::Codes => "codes",
            Self::GeluCodes => "gelu codes",
        }
    }
}

/// Returns the scale with which codes in `format` reach `reach`, R2 16 times as coarse as R1.
pub(crate) fn scale_to(reach: f32, format: Format) -> Scale {
    let unit = reach / 128.0;
    match format.is_twin() {
        false => Scale::uniform(unit),
        true => Scale {
            scale: unit / 16.0,
            shift: 4,
        },
    }
}

/// Makes a table of every second lane, whose R2 continues R1 at 16 times its scale. Of one of every lane, the CPU version
/// would look nothing up.
fn half_table(format: Format) -> Table {
    let (first, second) = match format.is_twin() {
        false => (0x80..=0xff, 0..=0x7f),
        true => (0..=0x7f, 0x88..=0xff),
    };
    Table {
        offset: 0.0,
        lanes: first.chain(second).step_by(2).collect(),
    }
}

/// Makes encoders of so many groups, all alike, whose codes reach `reach`.
pub(in crate::kernels) fn encoders(format: Format, reach: f32, groups: usize) -> Vec<u32> {
    let scales = vec![scale_to(reach, format); groups];
    format.encoders(&scales, &vec![half_table(format); groups])
}

/// Says how rows become codes in `format` by `encoders` of one group, where they do.
pub(in crate::kernels) fn row_codes(
    format: Option<Format>,
    matrix_rows: usize,
    encoders: &Buffer<u32>,
) -> Option<RowCodes<'_>> {
    format.map(|format| RowCodes {
        format,
        bits: BITS,
        encoders,
        matrix_rows,
        groups: 1,
    })
}
