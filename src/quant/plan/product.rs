//! A product of codes: which matrices are multiplied, how their values become codes, and which of them share scales.

use super::{Granularity, OperandScheme, Side, SiteScales};
use crate::device::{Buffer, Commands, Device};
use crate::format::{Scale, Table};
use crate::kernels::{
    IntegerProduct, Lines, Operands, Product, Quantize, RowMaximum, Width, integer_product,
    integer_product_error, quantize, vectors_lie_within,
};

/// Describes a product of codes: that of a site for some images, or of a piece that a search makes of a site.
#[derive(Clone, Copy, Debug)]
pub struct CodedProduct {
    product: Product,
    lines: Lines,
    a: OperandGroups,
    b: OperandGroups,
}

/// Says how an operand becomes codes, and how many scales it has.
#[derive(Clone, Copy, Debug)]
pub struct OperandGroups {
    /// How its values become codes.
    pub scheme: OperandScheme,
    /// The number of its scales: one for each head, or one for each run of as many rows.
    pub groups: usize,
}

/// Holds the codes of one operand for some images, or of a weight.
pub struct Codes {
    /// The packed codes, as an integer product takes its operands.
    pub words: Buffer<u32>,
    /// Whether each job has codes of its own.
    pub per_job: bool,
    /// The bits in which a code is stored; 8 for a left operand.
    pub width: Width,
}

impl Codes {
    /// Uploads a weight's `codes` `[outputs, inputs]`, which are as `scheme` says, stored in the smallest [`Width`] that
    /// holds them. Those of a table are its lanes.
    pub fn of_weight(device: &Device, codes: &[i8], inputs: usize, scheme: &OperandScheme) -> Self {
        let width = match scheme.format.lanes() {
            None => Width::holding(scheme.bits),
            Some(_) => Width::Eight,
        };
        Self {
            words: device.upload(&width.pack(codes, inputs)),
            per_job: false,
            width,
        }
    }

    /// Takes codes that all jobs share, stored in 8 bits each.
    pub fn shared(words: Buffer<u32>) -> Self {
        Self {
            words,
            per_job: false,
            width: Width::Eight,
        }
    }
}

impl CodedProduct {
    /// Describes `product` with codes of `a` and `b` as operands. `lines` says which of O's elements share one scale of
    /// A and one of B.
    pub fn new(product: Product, lines: Lines, a: OperandGroups, b: OperandGroups) -> Self {
        Self {
            product,
            lines,
            a,
            b,
        }
    }

    /// Counts the multiply-adds of one job.
    pub fn multiply_adds(&self) -> u64 {
        self.product.multiply_adds()
    }

    /// Counts the elements of A or of O, whichever are more.
    pub fn widest(&self) -> usize {
        let Product { m, n, k, .. } = self.product;
        self.product.problems() * m * n.max(k)
    }

    /// Says which of O's elements share one scale of A and one of B.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    fn operand(&self, side: Side) -> OperandGroups {
        match side {
            Side::A => self.a,
            Side::B => self.b,
        }
    }

    /// Describes the quantizer of one operand under `jobs` sets of scales.
    pub fn quantizer(&self, side: Side, jobs: usize) -> Quantize {
        let product = &self.product;
        let OperandGroups { scheme, groups } = self.operand(side);
        let (source, rows) = match side {
            Side::A => (product.a, product.m),
            Side::B => (product.b.transposed(), product.n),
        };
        let per_head = scheme.granularity == Granularity::Head;
        Quantize {
            source,
            batch: product.batch,
            rows,
            k: product.k,
            jobs,
            groups,
            inner_groups: per_head.into(),
            group_rows: if per_head { rows } else { rows / groups },
            bits: scheme.bits,
            format: scheme.format,
        }
    }

    /// Describes the search for the largest value in each row of one operand. A row never spans two groups.
    pub fn maximum(&self, side: Side) -> RowMaximum {
        let quantizer = self.quantizer(side, 1);
        RowMaximum {
            source: quantizer.source,
            batch: quantizer.batch,
            rows: quantizer.rows,
            columns: quantizer.k,
            absolute: quantizer.format.reaches_negative(),
        }
    }

    /// Computes the codes of one operand: a set for each of `jobs`, which have a scale per group, and the same tables,
    /// where codes are looked up in any.
    pub fn codes(
        &self,
        commands: &mut Commands,
        side: Side,
        source: &Buffer<f32>,
        jobs: &[Vec<Scale>],
        tables: &[Table],
    ) -> Codes {
        let format = self.operand(side).scheme.format;
        let encoders = format.encoders(&jobs.concat(), tables);
        let encoders = commands.device().upload(&encoders);
        let quantizer = self.quantizer(side, jobs.len());
        Codes {
            words: quantize(commands, &quantizer, source, &encoders),
            per_job: jobs.len() > 1,
            width: Width::Eight,
        }
    }

    /// Uploads `[jobs][groups][2]`: what one unit of the integers is worth under each of `scales`, and the left shift
    /// m.
    pub fn output_scales(&self, device: &Device, scales: &[SiteScales]) -> Buffer<f32> {
        let groups = self.lines.groups();
        let values: Vec<f32> = scales
            .iter()
            .flat_map(|scales| {
                (0..groups).flat_map(|group| {
                    let [a, b] = scales.of(group);
                    [a.scale * b.scale, a.shift as f32]
                })
            })
            .collect();
        device.upload(&values)
    }

    /// Describes the integer product under `jobs` sets of scales. Its results are laid out as O is, one job's after the
    /// other.
    pub fn shape(&self, jobs: usize, a: &Codes, b: &Codes) -> IntegerProduct {
        let product = &self.product;
        IntegerProduct {
            batch: product.batch,
            m: product.m,
            n: product.n,
            k: product.k,
            out: product.out,
            jobs,
            a_per_job: a.per_job,
            b_per_job: b.per_job,
            job_stride: self.lines.elements(),
            a_format: self.a.scheme.format,
            b_width: b.width,
        }
    }

    /// Returns what is multiplied, under the scales that [`output_scales`](Self::output_scales) uploaded.
    pub fn operands<'a>(
        &self,
        a: &'a Codes,
        b: &'a Codes,
        scales: &'a Buffer<f32>,
        affine: Option<&'a Buffer<f32>>,
    ) -> Operands<'a> {
        Operands {
            a: &a.words,
            b: &b.words,
            scales,
            groups: self.lines.groups(),
            // Groups of columns are a single matrix's, others are whole matrices.
            inner_groups: 1,
            group_columns: self.lines.group_columns,
            affine,
        }
    }

    /// Computes Ô of every job, one after the other, each laid out as O. `scales` has the scales of each job.
    pub fn integer_product(
        &self,
        commands: &mut Commands,
        a: &Codes,
        b: &Codes,
        scales: &[SiteScales],
        affine: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let shape = self.shape(scales.len(), a, b);
        let out = commands.uninitialized(scales.len() * shape.job_stride);
        let scales = self.output_scales(commands.device(), scales);
        let operands = self.operands(a, b, &scales, affine);
        integer_product(commands, &shape, &operands, None, &out);
        out
    }

    /// Says whether [`integer_product_error`](Self::integer_product_error) can compute this product.
    pub fn sums_errors(&self) -> bool {
        vectors_lie_within(self.product.n, self.lines.group_columns)
    }

    /// Counts the bytes of the partial sums that [`integer_product_error`](Self::integer_product_error) stores for a
    /// job.
    pub fn error_bytes(&self) -> usize {
        // One part for four rows by four columns, or by one where that has a scale to itself.
        let Product { m, n, .. } = self.product;
        let across = match self.lines.group_columns {
            1 => n,
            _ => n.div_ceil(4),
        };
        self.product.problems() * m.div_ceil(4) * across * size_of::<f32>()
    }

    /// Computes `[jobs][groups]`: Σ (weight · (Ô - O))² of every job, with O as `reference`.
    #[expect(clippy::too_many_arguments)]
    pub fn integer_product_error(
        &self,
        commands: &mut Commands,
        a: &Codes,
        b: &Codes,
        scales: &[SiteScales],
        affine: Option<&Buffer<f32>>,
        reference: &Buffer<f32>,
        weight: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let shape = self.shape(scales.len(), a, b);
        let scales = self.output_scales(commands.device(), scales);
        let operands = self.operands(a, b, &scales, affine);
        integer_product_error(commands, &shape, &operands, reference, weight)
    }
}
