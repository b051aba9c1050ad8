//! How one site is quantized: the formats and widths of its operands, and which scales belong to which values.

use super::{Granularity, OperandScheme};
use crate::device::{Buffer, Commands, Device};
use crate::kernels::{
    Format, IntegerProduct, Lines, Operands, Quantize, RowMaximum, Width, integer_product,
    integer_product_error, quantize, vectors_lie_within,
};
use crate::model::{Attention, Matrices, Site, SiteKind};
use crate::quant::candidates::{MAX_SHIFT, Scale};
use serde::{Deserialize, Serialize};

/// One of the two operands of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The left operand.
    A,
    /// The right operand.
    B,
}

/// The scales of one site, one per group of each operand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteScales {
    /// A's scales: one for a tensor, or one per head.
    pub a: Vec<Scale>,
    /// B's scales: one for a tensor, one per third of qkv, or one per head.
    pub b: Vec<Scale>,
}

impl SiteScales {
    /// The scales of A and of B that serve a group of O: an operand's own for this group, or its one for all.
    pub fn of(&self, group: usize) -> [Scale; 2] {
        [&self.a, &self.b].map(|scales| scales[group % scales.len()])
    }
}

/// A site whose product is computed in integers, and how its operands become codes.
#[derive(Clone, Debug)]
pub struct SitePlan {
    /// The product.
    pub site: Site,
    /// How the left operand becomes codes.
    pub a: OperandScheme,
    /// How the right one does: a weight, or an activation.
    pub b: OperandScheme,
}

/// Codes of one operand for some images, or of a weight.
pub struct Codes {
    /// Packed as an integer product takes its operands.
    pub words: Buffer<u32>,
    /// Whether each job has codes of its own.
    pub per_job: bool,
    /// How they are stored; a left operand's always in lanes.
    pub width: Width,
}

impl Codes {
    /// Codes that all jobs share.
    pub fn shared(words: Buffer<u32>) -> Self {
        Self {
            words,
            per_job: false,
            width: Width::Eight,
        }
    }
}

impl SitePlan {
    /// That these are as many scales as there are groups, and of the site's formats.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub fn check_formats(&self, scales: &SiteScales) -> Result<(), String> {
        for (side, name, scales) in [(Side::A, "a", &scales.a), (Side::B, "b", &scales.b)] {
            let (expected, found) = (self.groups(side), scales.len());
            if found != expected {
                return Err(format!(
                    "expected {expected} of {name}.scale, found {found}"
                ));
            }
            let most = match self.operand(side).format {
                Format::Uniform => 0,
                _ => MAX_SHIFT,
            };
            for &Scale { scale, shift } in scales {
                if !scale.is_normal() || scale < 0.0 {
                    return Err(format!("expected positive {name}.scale, found {scale}"));
                }
                if shift > most {
                    return Err(format!("expected {name}.shift up to {most}, found {shift}"));
                }
            }
        }
        Ok(())
    }

    /// That the site can be computed with these scales, one per group: what quantizers multiply by and what one unit of a
    /// product is worth are normal numbers, because devices differ in what they make of smaller ones, and the largest
    /// sum of products stays within f32's range.
    ///
    /// # Errors
    /// The scales that are too small or too large.
    pub fn check_scales(&self, scales: &SiteScales) -> Result<(), String> {
        for (side, scales) in [("a", &scales.a), ("b", &scales.b)] {
            let usable =
                |scale: &&Scale| scale.inverses().iter().all(|inverse| inverse.is_normal());
            if let Some(scale) = scales.iter().find(|scale| !usable(scale)) {
                return Err(format!(
                    "expected {side}.scale within f32's range, as is its inverse, found {} · 2^{}",
                    scale.scale, scale.shift
                ));
            }
        }
        let k = self.site.product(1).k as f64;
        for group in 0..self.output_groups() {
            let [a, b] = scales.of(group);
            let unit = a.scale * b.scale;
            let largest_code = |bits: u32| f64::from(1u32 << (bits - 1));
            let largest = f64::from(unit)
                * (k * largest_code(self.a.bits) * largest_code(self.b.bits))
                * f64::from(1u32 << a.shift);
            if !unit.is_normal() || largest > f64::from(f32::MAX) {
                return Err(format!(
                    "expected products within f32's range, found scales of {} · 2^{} and {}",
                    a.scale, a.shift, b.scale
                ));
            }
        }
        Ok(())
    }

    /// How one operand becomes codes.
    pub fn operand(&self, side: Side) -> &OperandScheme {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// The number of scales of one operand.
    pub fn groups(&self, side: Side) -> usize {
        match (self.operand(side).granularity, &self.site.kind) {
            (Granularity::Tensor, _) => 1,
            (Granularity::Third, _) => 3,
            (Granularity::Head, SiteKind::Scores(at) | SiteKind::Context(at)) => at.heads,
            (Granularity::Head, _) => unreachable!("only attention has heads"),
        }
    }

    /// Groups that O is scored in: columns, or heads, that one scale of A and one of B serve.
    pub fn output_groups(&self) -> usize {
        self.lines(1).groups()
    }

    /// How O's elements fall into groups that are scored apart.
    pub fn lines(&self, images: usize) -> Lines {
        match self.site.kind {
            SiteKind::Linear(linear) => Lines {
                rows: images * linear.rows,
                columns: linear.outputs,
                group_columns: linear.outputs / self.groups(Side::B),
                group_rows: images * linear.rows,
                row_groups: 1,
            },
            SiteKind::Scores(Attention {
                windows,
                heads,
                tokens,
                ..
            }) => Lines {
                rows: images * windows * heads * tokens,
                columns: tokens,
                group_columns: tokens,
                group_rows: tokens,
                row_groups: heads,
            },
            SiteKind::Context(attention) => Lines {
                rows: images * attention.image_tokens(),
                columns: attention.dim(),
                group_columns: attention.head_dim,
                group_rows: images * attention.image_tokens(),
                row_groups: 1,
            },
            SiteKind::Matrices(Matrices { m, n, .. }) => Lines {
                rows: images * m,
                columns: n,
                group_columns: n,
                group_rows: images * m,
                row_groups: 1,
            },
        }
    }

    /// The quantizer of one operand for `images` images under `jobs` sets of scales.
    pub fn quantizer(&self, side: Side, images: usize, jobs: usize) -> Quantize {
        let product = self.site.product(images);
        let groups = self.groups(side);
        let (source, rows) = match side {
            Side::A => (product.a, product.m),
            Side::B => (product.b.transposed(), product.n),
        };
        let OperandScheme {
            bits,
            format,
            granularity,
        } = *self.operand(side);
        let per_head = granularity == Granularity::Head;
        Quantize {
            source,
            batch: product.batch,
            rows,
            k: product.k,
            jobs,
            groups,
            inner_groups: per_head.into(),
            group_rows: if per_head { rows } else { rows / groups },
            bits,
            format,
        }
    }

    /// Where one operand's largest values are looked for: a row never spans two groups.
    pub(in crate::quant) fn maximum(&self, side: Side, images: usize) -> RowMaximum {
        let quantizer = self.quantizer(side, images, 1);
        RowMaximum {
            source: quantizer.source,
            batch: quantizer.batch,
            rows: quantizer.rows,
            columns: quantizer.k,
            // R1 of the GELU twin has a range of its own, so only the positive values count.
            absolute: self.operand(side).format != Format::GeluTwin,
        }
    }

    /// `[jobs][groups][2]`: what a quantizer of one operand multiplies by under each of `jobs`, which give a scale per
    /// group.
    pub fn inverse_scales(&self, device: &Device, jobs: &[Vec<Scale>]) -> Buffer<f32> {
        let scales = jobs.iter().flatten();
        let inverses: Vec<f32> = scales.flat_map(|scale| scale.inverses()).collect();
        device.upload(&inverses)
    }

    /// Codes of one operand, one set for each of `jobs`, which give a scale per group.
    pub fn codes(
        &self,
        commands: &mut Commands,
        side: Side,
        images: usize,
        source: &Buffer<f32>,
        jobs: &[Vec<Scale>],
    ) -> Codes {
        let inverses = self.inverse_scales(commands.device(), jobs);
        let quantizer = self.quantizer(side, images, jobs.len());
        Codes {
            words: quantize(commands, &quantizer, source, &inverses),
            per_job: jobs.len() > 1,
            width: Width::Eight,
        }
    }

    /// `[jobs][groups][2]`: what one unit of an integer product is worth under each of `scales`, and the left shift m.
    pub fn output_scales(&self, device: &Device, scales: &[SiteScales]) -> Buffer<f32> {
        let groups = self.output_groups();
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

    /// The integer product of the site for `images` images under `jobs` sets of scales, whose values lie as O does, one
    /// job's after the other.
    pub fn shape(&self, images: usize, jobs: usize, a: &Codes, b: &Codes) -> IntegerProduct {
        let product = self.site.product(images);
        IntegerProduct {
            batch: product.batch,
            m: product.m,
            n: product.n,
            k: product.k,
            out: product.out,
            jobs,
            a_per_job: a.per_job,
            b_per_job: b.per_job,
            job_stride: images * self.site.out_len(),
            a_format: self.a.format,
            b_width: b.width,
        }
    }

    /// What is multiplied, under the scales that [`output_scales`](Self::output_scales) made.
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
            groups: self.output_groups(),
            inner_groups: (!self.site.has_weight()).into(),
            group_columns: self.group_columns(),
            affine,
        }
    }

    /// Ô of every job, one after the other, each laid out as the site's O. `scales` has the scales of each job.
    pub fn integer_product(
        &self,
        commands: &mut Commands,
        images: usize,
        a: &Codes,
        b: &Codes,
        scales: &[SiteScales],
        affine: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let shape = self.shape(images, scales.len(), a, b);
        let out = commands.uninitialized(scales.len() * shape.job_stride);
        let scales = self.output_scales(commands.device(), scales);
        let operands = self.operands(a, b, &scales, affine);
        integer_product(commands, &shape, &operands, None, &out);
        out
    }

    /// Whether [`integer_product_error`](Self::integer_product_error) is there for this site.
    pub fn sums_errors(&self) -> bool {
        vectors_lie_within(self.site.product(1).n, self.group_columns())
    }

    /// Columns of O that share a scale.
    fn group_columns(&self) -> usize {
        let columns = self.site.product(1).n;
        match self.site.has_weight() {
            true => columns / self.groups(Side::B),
            false => columns,
        }
    }

    /// `[jobs][groups]`: Σ (weight · (Ô - O))² of every job, with O `reference`.
    #[expect(clippy::too_many_arguments)]
    pub fn integer_product_error(
        &self,
        commands: &mut Commands,
        images: usize,
        a: &Codes,
        b: &Codes,
        scales: &[SiteScales],
        affine: Option<&Buffer<f32>>,
        reference: &Buffer<f32>,
        weight: Option<&Buffer<f32>>,
    ) -> Buffer<f32> {
        let shape = self.shape(images, scales.len(), a, b);
        let scales = self.output_scales(commands.device(), scales);
        let operands = self.operands(a, b, &scales, affine);
        integer_product_error(commands, &shape, &operands, reference, weight)
    }
}
