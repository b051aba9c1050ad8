//! How one site is quantized: the formats and widths of its operands, and which scales belong to which values.

use super::product::{CodedProduct, OperandGroups};
use super::scales::{Side, SiteScales};
use super::scheme::values;
use super::{Granularity, OperandScheme};
use crate::format::{Scale, Table, Values};
use crate::graph::{Site, SiteKind};
use crate::kernels::{Lines, Quantize};

/// Describes a site whose product is computed in integers, and how its operands become codes.
#[derive(Clone, Debug)]
pub struct SitePlan {
    /// The product.
    pub site: Site,
    /// How the left operand becomes codes.
    pub a: OperandScheme,
    /// How the right operand, a weight or an activation, becomes codes.
    pub b: OperandScheme,
}

impl SitePlan {
    /// Checks that there are as many scales as groups, all positive normal numbers, with shifts that the formats allow,
    /// and tables where the formats have them: as many as scales, or one of a weight.
    ///
    /// # Errors
    /// What was expected and what was found.
    pub fn check_formats(&self, scales: &SiteScales) -> Result<(), String> {
        for (side, name) in [(Side::A, "a"), (Side::B, "b")] {
            let (scales, tables) = scales.operand(side);
            let (expected, found) = (self.groups(side), scales.len());
            if found != expected {
                return Err(format!(
                    "expected {expected} of {name}.scale, found {found}"
                ));
            }
            let most = self.operand(side).format.max_shift();
            for &Scale { scale, shift } in scales {
                if !scale.is_normal() || scale < 0.0 {
                    return Err(format!("expected positive {name}.scale, found {scale}"));
                }
                if shift > most {
                    return Err(format!("expected {name}.shift up to {most}, found {shift}"));
                }
            }
            self.check_tables(side, name, scales, tables)?;
        }
        Ok(())
    }

    /// Checks the tables of one operand, called `name`, whose scales are sound.
    fn check_tables(
        &self,
        side: Side,
        name: &str,
        scales: &[Scale],
        tables: &[Table],
    ) -> Result<(), String> {
        let (expected, found) = (self.tables(side), tables.len());
        if found != expected {
            return Err(format!(
                "expected {expected} of {name}.levels, found {found}"
            ));
        }
        let OperandScheme { bits, format, .. } = *self.operand(side);
        let Some(lanes) = format.lanes() else {
            return Ok(());
        };
        let has_bias = self.site.weight().is_some_and(|linear| linear.has_bias);
        for (table, scale) in tables.iter().zip(scales) {
            let offset = table.offset;
            let sound = table.check(lanes, scale.shift, bits);
            sound.map_err(|problem| format!("{name}.levels: {problem}"))?;
            // Devices differ in what they make of smaller numbers.
            if offset != 0.0 && !offset.is_normal() {
                return Err(format!(
                    "expected {name}.offset that is 0 or a normal number, found {offset}"
                ));
            }
            if offset != 0.0 && !(side == Side::A && has_bias) {
                return Err(format!(
                    "expected no {name}.offset, which only a linear site's bias makes up for, found {offset}"
                ));
            }
        }
        Ok(())
    }

    /// Checks that the site can be computed with these scales, one per group. What quantizers multiply by and what one
    /// unit of a product is worth must be normal numbers, because devices differ in what they make of smaller ones; the
    /// largest sum of products must stay within f32's range.
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
            let largest_lane =
                |operand: &OperandScheme| f64::from(operand.format.largest_lane(operand.bits));
            let largest = f64::from(unit)
                * (k * largest_lane(&self.a) * largest_lane(&self.b))
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

    /// Says how one operand becomes codes.
    pub fn operand(&self, side: Side) -> &OperandScheme {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// Says what kind of values an operand has.
    pub fn values(&self, side: Side) -> Values {
        values(&self.site, side)
    }

    /// Counts the scales of one operand.
    pub fn groups(&self, side: Side) -> usize {
        match (self.operand(side).granularity, &self.site.kind) {
            (Granularity::Tensor, _) => 1,
            (Granularity::Third, _) => 3,
            (Granularity::Half, _) => 2,
            (Granularity::Head, SiteKind::Scores(at) | SiteKind::Context(at)) => at.heads,
            (Granularity::Channel, SiteKind::Linear(linear)) => linear.outputs,
            (Granularity::Head | Granularity::Channel, _) => {
                unreachable!("only attention has heads, only weights have channels")
            }
        }
    }

    /// Counts the values of one operand, of one image where it is an activation.
    pub fn values_len(&self, side: Side) -> usize {
        let quantizer = self.quantizer(side, 1, 1);
        quantizer.batch[0] * quantizer.batch[1] * quantizer.rows * quantizer.k
    }

    /// Counts the tables of one operand: none, one of a weight, or one for each scale.
    pub fn tables(&self, side: Side) -> usize {
        match (self.operand(side).format.lanes(), side) {
            (None, _) => 0,
            (Some(_), Side::B) if self.site.has_weight() => 1,
            (Some(_), _) => self.groups(side),
        }
    }

    /// Counts the groups of O that are scored apart: columns, or heads, that share one scale of A and one of B.
    pub fn output_groups(&self) -> usize {
        self.lines(1).groups()
    }

    /// Says how O's elements fall into groups that are scored apart.
    pub fn lines(&self, images: usize) -> Lines {
        match self.site.kind {
            SiteKind::Linear(linear) => Lines {
                rows: images * linear.rows,
                columns: linear.outputs,
                group_columns: linear.outputs / self.groups(Side::B),
                group_rows: images * linear.rows,
                row_groups: 1,
            },
            SiteKind::Scores(attention) => Lines {
                rows: images * attention.image_queries() * attention.heads,
                columns: attention.tokens,
                group_columns: attention.tokens,
                group_rows: attention.queries(),
                row_groups: attention.heads,
            },
            SiteKind::Context(attention) => Lines {
                rows: images * attention.image_queries(),
                columns: attention.dim(),
                group_columns: attention.head_dim,
                group_rows: images * attention.image_queries(),
                row_groups: 1,
            },
        }
    }

    /// Says how O's elements fall into parts that have scales of B to themselves. Where every column of a weight has a
    /// scale, they all are one part.
    pub fn part_lines(&self, images: usize) -> Lines {
        let lines = self.lines(images);
        match self.b.granularity {
            Granularity::Channel => Lines {
                group_columns: lines.columns,
                ..lines
            },
            _ => lines,
        }
    }

    /// Describes the product of codes that computes the site for `images` images.
    pub fn product(&self, images: usize) -> CodedProduct {
        let operand = |side| OperandGroups {
            scheme: *self.operand(side),
            groups: self.groups(side),
        };
        CodedProduct::new(
            self.site.product(images),
            self.lines(images),
            operand(Side::A),
            operand(Side::B),
        )
    }

    /// Describes the quantizer of one operand for `images` images under `jobs` sets of scales.
    pub fn quantizer(&self, side: Side, images: usize, jobs: usize) -> Quantize {
        self.product(images).quantizer(side, jobs)
    }
}
