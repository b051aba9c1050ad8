//! Cases of kernels that write the codes of the rows they compute.

use super::{Case, CodeRange, EPSILON, Unpadded, case, code, format_name, packed};
use crate::device::{Buffer, Commands, Device};
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
    /// `scale_2` in units of `scale_1`.
    pub ratio: f32,
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
                inverse_scales: &device.upload(&self.inverses(groups).concat()),
                matrix_rows: self.matrix_rows,
                groups,
            };
            unpadded(codes(commands, device, inputs, &how))
        };
        let unfused = move |commands: &mut Commands, device: &Device, inputs: &D| {
            let floats = floats(commands, device, inputs);
            let inverses = device.upload(&self.inverses(self.matrices()).concat());
            unpadded(quantize(commands, &self.quantizer(), &floats, &inverses))
        };
        case(name, inputs, run)
            .unfused(unfused)
            .codes(move |inputs| self.range(&exact(inputs)))
    }

    fn matrices(&self) -> usize {
        self.rows / self.matrix_rows
    }

    fn inverses(&self, matrices: usize) -> Vec<[f32; 2]> {
        let scales = self.scales.iter().cycle().take(matrices);
        scales
            .map(|scale| [1.0 / scale, 1.0 / (scale * self.ratio)])
            .collect()
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
            let words = matrices.zip(self.inverses(self.matrices()));
            let words = words.flat_map(|(exact, inverses)| {
                packed([self.matrix_rows, self.width], |row, k| {
                    let (value, bound) = exact[row * self.width + k];
                    // The product with the inverse is rounded too.
                    let end = value + sign * (bound + EPSILON * value.abs());
                    code(
                        self.format,
                        self.bits,
                        inverses.map(|it| end * f64::from(it)),
                    )
                })
            });
            words.collect()
        };
        CodeRange {
            format: self.format,
            ratio: self.ratio.into(),
            low: end(-1.0),
            high: end(1.0),
        }
    }
}
