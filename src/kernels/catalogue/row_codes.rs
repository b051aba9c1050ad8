//! Cases of kernels that write the codes of the rows they compute.

use super::{Case, CodeRange, EPSILON, Group, Random, TABLES, Unpadded, case, format_name, packed};
use crate::device::{Buffer, Commands, Device};
use crate::format::Scale;
use crate::kernels::{Format, Quantize, RowCodes, View, quantize};

/// Rows of floats that become codes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct CodedRows {
    pub rows: usize,
    pub width: usize,
    pub matrix_rows: usize,
    pub format: Format,
    pub bits: u32,
    /// `scale_1` of matrices, which take turns.
    pub scales: &'static [f32],
    /// How far R2 is shifted left: `scale_2` is `scale_1 · 2^shift`.
    pub shift: u32,
}

impl CodedRows {
    /// Makes a case of a kernel that gives either `floats`, which are near `exact`, or their `codes`.
    pub fn case<D: Send + Sync + 'static>(
        self,
        name: &str,
        inputs: impl FnOnce() -> D + Send + 'static,
        floats: impl Fn(&mut Commands, &Device, &D) -> Buffer<f32> + Send + Sync + 'static,
        codes: impl Fn(&mut Commands, &Device, &D, &RowCodes) -> Buffer<u32> + Send + Sync + 'static,
        exact: impl Fn(&D) -> Vec<(f64, f64)> + Send + Sync + 'static,
    ) -> Case {
        let format = format_name(self.format);
        let name = format!("codes of {name}, {format}, {} bits", self.bits);
        let unpadded = move |codes| Unpadded {
            codes,
            rows: self.matrix_rows,
        };
        let run = move |commands: &mut Commands, device: &Device, inputs: &D| {
            let groups = self.scales.len();
            let how = RowCodes {
                format: self.format,
                bits: self.bits,
                encoders: &device.upload(&self.records(groups)),
                matrix_rows: self.matrix_rows,
                groups,
            };
            unpadded(codes(commands, device, inputs, &how))
        };
        let unfused = move |commands: &mut Commands, device: &Device, inputs: &D| {
            let floats = floats(commands, device, inputs);
            let encoders = device.upload(&self.records(self.matrices()));
            unpadded(quantize(commands, &self.quantizer(), &floats, &encoders))
        };
        case(name, inputs, run)
            .unfused(unfused)
            .codes(move |inputs| self.range(&exact(inputs)))
    }

    fn matrices(&self) -> usize {
        self.rows / self.matrix_rows
    }

    fn ratio(&self) -> f32 {
        2f32.powi(self.shift as i32)
    }

    /// The groups of so many matrices. Tables have offsets, of either sign.
    fn groups(&self, matrices: usize) -> Vec<Group> {
        let groups = self.scales.iter().zip(0..).map(|(&scale, number)| {
            if !TABLES.contains(&self.format) {
                let inverses = [1.0 / scale, 1.0 / (scale * self.ratio())];
                return Group::of_scales(self.format, self.bits, inverses);
            }
            let scale_1 = Scale {
                scale,
                shift: self.shift,
            };
            let offset = 5.3 * scale * [1.0, -1.0][number % 2];
            let mut random = Random::new(number as u64);
            Group::of_table(self.format, self.bits, scale_1, offset, &mut random)
        });
        let groups: Vec<Group> = groups.collect();
        groups.iter().cycle().take(matrices).cloned().collect()
    }

    fn records(&self, matrices: usize) -> Vec<u32> {
        let groups = self.groups(matrices).into_iter();
        groups.flat_map(|group| group.record()).collect()
    }

    fn quantizer(&self) -> Quantize {
        Quantize {
            source: View::new(0, [0, self.matrix_rows * self.width], self.width, 1),
            batch: [1, self.matrices()],
            rows: self.matrix_rows,
            k: self.width,
            jobs: 1,
            groups: self.matrices(),
            inner_groups: 1,
            group_rows: self.matrix_rows,
            bits: self.bits,
            format: self.format,
        }
    }

    fn range(&self, exact: &[(f64, f64)]) -> CodeRange {
        let end = |sign: f64| {
            let matrices = exact.chunks(self.matrix_rows * self.width);
            let words = matrices.zip(self.groups(self.matrices()));
            let words = words.flat_map(|(exact, group)| {
                packed([self.matrix_rows, self.width], |row, k| {
                    let (value, bound) = exact[row * self.width + k];
                    // What is left of it without the offset and the product with the inverse are rounded too.
                    let offset = f64::from(group.offset()).abs();
                    let end = value + sign * (bound + EPSILON * (value.abs() + offset));
                    group.code_near(end)
                })
            });
            words.collect()
        };
        CodeRange {
            format: self.format,
            ratio: self.ratio().into(),
            low: end(-1.0),
            high: end(1.0),
        }
    }
}
