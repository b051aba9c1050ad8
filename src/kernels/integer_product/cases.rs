//! Integer products and their epilogues, up to the longest sums of the largest codes. The integers, and what is
//! computed of them by one rounding, are the same bits everywhere.

use super::{
    IntegerProduct, MAX_K, NextCodes, Operands, Residual, TWIN, affine, integer_product,
    integer_product_codes, integer_product_error,
};
use crate::device::{Buffer, Commands, Device};
use crate::format::{Gelu, Scale};
use crate::kernels::catalogue::{
    Case, CodeRange, EPSILON, FORMATS, Group, Mistake, OF_INTEGERS, Random, TABLES, UNTOUCHED,
    Unpadded, case, format_name, packed, place,
};
use crate::kernels::{Format, TokenOrder, View, Width, gelu};

/// Holds a product and its operands, unpacked.
#[derive(Clone)]
struct Data {
    product: IntegerProduct,
    /// `[job or 1][problem][m][k]`, one code a byte.
    a: Vec<u8>,
    /// `[job or 1][problem][n][k]`
    b: Vec<i8>,
    scales: Vec<f32>,
    groups: usize,
    inner_groups: usize,
    group_columns: usize,
    /// The shift of each job; where heads have scales of their own, those of its heads are this one and the next ones.
    shifts: Vec<u32>,
    /// What columns' scales are multiplied by.
    factors: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    /// Length of the output.
    len: usize,
}

/// Holds the parts that one output is computed from.
struct Output {
    /// Its place.
    at: usize,
    /// The scale, times the factor, and the bias of its column.
    scale: f32,
    bias: f32,
    /// The sum of products of codes, in units of `scale_1`.
    integer: i64,
}

impl Output {
    /// Computes scale · integer + bias and a bound on its error. Rounding the integer, the product and the sum errs by
    /// half an epsilon of each; a twin's integer is rounded twice when it exceeds 2^24; fusing the sum spares one.
    fn value(&self) -> (f64, f64) {
        let product = self.integer as f64 * f64::from(self.scale);
        let value = product + f64::from(self.bias);
        let bound = EPSILON * (1.5 * product.abs() + 0.5 * value.abs());
        (value, bound)
    }

    /// Computes scale · integer, without a bias, for an integer that is rounded to an f32 once.
    fn rounded(&self) -> f32 {
        self.integer as f32 * self.scale
    }
}

impl Data {
    /// Makes random codes, one scale (1, so that the integer itself comes out), no bias, and outputs one after another.
    fn new(
        [m, k, n]: [usize; 3],
        batch: [usize; 2],
        jobs: usize,
        [a_per_job, b_per_job]: [bool; 2],
        a_format: Format,
    ) -> Self {
        let product = IntegerProduct {
            batch,
            m,
            n,
            k,
            out: View::new(0, [batch[1] * m * n, m * n], n, 1),
            jobs,
            a_per_job,
            b_per_job,
            job_stride: batch[0] * batch[1] * m * n,
            a_format,
            b_width: Width::Eight,
        };
        let matrices = |per_job: bool| batch[0] * batch[1] * if per_job { jobs } else { 1 };
        let mut random = Random::new((m * k * n * jobs) as u64);
        let a = random.bytes(matrices(a_per_job) * m * k);
        let b = random.bytes(matrices(b_per_job) * k * n);
        Self {
            a,
            b: b.into_iter().map(|byte| byte as i8).collect(),
            scales: vec![1.0; jobs],
            groups: 1,
            inner_groups: 0,
            group_columns: n,
            shifts: (0..jobs as u32).map(|job| (3 + 4 * job) % 12).collect(),
            factors: None,
            bias: None,
            len: jobs * product.job_stride,
            product,
        }
    }

    /// Makes a product of a single matrix.
    fn single(shape: [usize; 3], format: Format) -> Self {
        Self::new(shape, [1, 1], 1, [false; 2], format)
    }

    /// Makes the same product from codes of `bits` bits on the right, stored in `width`.
    fn narrow(mut self, bits: u32, width: Width) -> Self {
        for code in &mut self.b {
            *code >>= 8 - bits;
        }
        self.product.b_width = width;
        self
    }

    /// Sets all codes on the right to one value, and those on the left to two in turn along k.
    fn filled(mut self, left: [u8; 2], right: i8) -> Self {
        let k = self.product.k;
        for (at, code) in self.a.iter_mut().enumerate() {
            *code = left[at % k % 2];
        }
        self.b.fill(right);
        self
    }

    /// Moves all codes near the largest, so that their sums are no round numbers.
    fn near_the_largest(mut self) -> Self {
        self.a
            .iter_mut()
            .for_each(|code| *code = *code & 0x87 | 0x78);
        self.b.iter_mut().for_each(|code| *code = *code & 7 | 120);
        self
    }

    fn shifted(mut self, shift: u32) -> Self {
        self.shifts.fill(shift);
        self
    }

    fn name(&self) -> String {
        let IntegerProduct {
            batch: [outer, inner],
            m,
            k,
            n,
            jobs,
            ..
        } = self.product;
        let matrices = match outer * inner * jobs {
            1 => String::new(),
            _ => format!("{jobs} jobs of {outer}x{inner} "),
        };
        let width = match self.product.b_width {
            Width::Eight => "",
            Width::Six => ", packed in 6 bits",
            Width::Four => ", packed in 4 bits",
        };
        format!(
            "{matrices}{m}x{k}x{n}, {}{width}",
            format_name(self.product.a_format)
        )
    }

    /// Names what strategies of this product are set by.
    fn strategies(&self) -> &'static str {
        match self.product.a_format.is_twin() {
            true => TWIN,
            false => super::SHADER.name,
        }
    }

    /// Calls `run` with everything on `device`.
    fn with_operands<T>(&self, device: &Device, run: impl FnOnce(&Operands) -> T) -> T {
        let IntegerProduct {
            m, k, n, b_width, ..
        } = self.product;
        let a = self.a.chunks(m * k);
        let a: Vec<u32> = a
            .flat_map(|codes| packed([m, k], |row, at| codes[row * k + at]))
            .collect();
        let b = self.b.chunks(n * k);
        let b: Vec<u32> = match b_width {
            Width::Eight => b
                .flat_map(|codes| packed([n, k], |column, at| codes[column * k + at] as u8))
                .collect(),
            _ => b.flat_map(|codes| b_width.pack(codes, k)).collect(),
        };
        let scales = self.scales.iter().enumerate();
        let scales: Vec<f32> = scales
            .flat_map(|(at, &scale)| {
                let shift = self.shift(at / self.groups, at % self.groups * self.inner_groups);
                [scale, shift as f32]
            })
            .collect();
        let affine = affine(self.factors.as_deref(), self.bias.as_deref());
        let affine = affine.map(|affine| device.upload(&affine));
        run(&Operands {
            a: &device.upload(&a),
            b: &device.upload(&b),
            scales: &device.upload(&scales),
            groups: self.groups,
            inner_groups: self.inner_groups,
            group_columns: self.group_columns,
            affine: affine.as_ref(),
        })
    }

    fn run(&self, commands: &mut Commands, device: &Device) -> Buffer<f32> {
        let out = device.upload(&vec![UNTOUCHED; self.len]);
        self.with_operands(device, |operands| {
            integer_product(commands, &self.product, operands, None, &out);
        });
        out
    }

    /// Returns the shift of a job's matrix, whose first scale is number `group`.
    fn shift(&self, job: usize, group: usize) -> u32 {
        self.shifts[(job + group) % self.shifts.len()]
    }

    /// Returns what the code of a left operand is worth, in units of `scale_1`.
    fn worth(&self, code: u8, shift: u32) -> i64 {
        let magnitude = i64::from(code % 128);
        match (self.product.a_format, code >= 128) {
            (Format::Uniform | Format::Table, _) => i64::from(code as i8),
            (Format::SoftmaxTwin | Format::TwinTable, false) => magnitude,
            (Format::GeluTwin, false) => -magnitude,
            (Format::SoftmaxTwin | Format::GeluTwin | Format::TwinTable, true) => {
                magnitude << shift
            }
        }
    }

    /// Lists every output, by jobs, matrices, rows and columns.
    fn outputs(&self) -> Vec<Output> {
        let IntegerProduct { batch, m, n, k, .. } = self.product;
        let problems = batch[0] * batch[1];
        let mut outputs = Vec::new();
        for job in 0..self.product.jobs {
            for problem in 0..problems {
                let of = |per_job: bool| if per_job { job * problems } else { 0 } + problem;
                let a = &self.a[of(self.product.a_per_job) * m * k..][..m * k];
                let b = &self.b[of(self.product.b_per_job) * n * k..][..n * k];
                let matrix = [problem / batch[1], problem % batch[1]];
                let shift = self.shift(job, matrix[1] * self.inner_groups);
                for (row, a) in a.chunks(k).enumerate() {
                    let a: Vec<i64> = a.iter().map(|&code| self.worth(code, shift)).collect();
                    for (column, b) in b.chunks(k).enumerate() {
                        let products = a.iter().zip(b).map(|(a, &b)| a * i64::from(b));
                        let group = matrix[1] * self.inner_groups + column / self.group_columns;
                        let of_column = |values: &Option<Vec<f32>>, otherwise| {
                            values.as_ref().map_or(otherwise, |values| values[column])
                        };
                        let at = place(&self.product.out, matrix, row, column);
                        outputs.push(Output {
                            at: job * self.product.job_stride + at,
                            scale: self.scales[job * self.groups + group]
                                * of_column(&self.factors, 1.0),
                            bias: of_column(&self.bias, 0.0),
                            integer: products.sum(),
                        });
                    }
                }
            }
        }
        outputs
    }

    fn close_to(&self) -> Vec<(f64, f64)> {
        let mut expected = vec![(f64::from(UNTOUCHED), 0.0); self.len];
        for output in self.outputs() {
            expected[output.at] = output.value();
        }
        expected
    }

    /// Makes a case of the integers, times powers of two or times what is rounded once. Beyond 24 bits a twin's are
    /// rounded twice, the same everywhere.
    fn exact(self, what: &str) -> Case {
        let rounded_twice = self.product.a_format.is_twin() && self.product.k > 1024;
        let strategies = self.strategies();
        let draft = case(
            format!("{what}{}", self.name()),
            || self,
            |commands, device, data| data.run(commands, device),
        );
        let case = match rounded_twice {
            true => draft.close(Self::close_to).bit_for_bit(),
            false => draft.exact(|data| {
                let mut expected = vec![UNTOUCHED; data.len];
                for output in data.outputs() {
                    expected[output.at] = output.rounded();
                }
                expected
            }),
        };
        case.by_strategy(strategies, &OF_INTEGERS)
    }

    fn close(self, what: &str) -> Case {
        let strategies = self.strategies();
        case(
            format!("{what}{}", self.name()),
            || self,
            |commands, device, data| data.run(commands, device),
        )
        .close(Self::close_to)
        .by_strategy(strategies, &OF_INTEGERS)
    }

    /// Makes a case of the codes of the next product, all heads side by side.
    fn codes(self, what: &str, gelu: Option<Gelu>, next: Group) -> Case {
        let name = format!(
            "{what}{} to {} of {} bits",
            self.name(),
            format_name(next.format),
            next.bits
        );
        let strategies = self.strategies();
        let is_exact = gelu.is_none() && self.bias.is_none();
        let record = next.record();
        let (format, bits) = (next.format, next.bits);
        let draft = case(
            name,
            || self,
            move |commands, device, data| {
                let (out, len) = data
                    .product
                    .words_of_rows()
                    .expect("no word spans two heads");
                let product = IntegerProduct {
                    out,
                    ..data.product
                };
                let codes = device.zeros(len);
                let next = NextCodes {
                    gelu,
                    format,
                    bits,
                    encoder: &device.upload(&record),
                };
                data.with_operands(device, |operands| {
                    integer_product_codes(commands, &product, operands, &next, &codes);
                });
                let rows = product.batch[0] * product.m;
                Unpadded { codes, rows }
            },
        );
        let case = match is_exact {
            true => draft
                .exact(move |data| data.packed_codes(gelu, |(value, _)| next.code(value as f32))),
            false => draft.codes(move |data| {
                // A table's offset is taken off in one more rounding.
                let end = |sign: f64, (value, bound): (f64, f64)| {
                    let of_offset = EPSILON * (value.abs() + f64::from(next.offset()).abs());
                    let of_table = next.table.as_ref().map_or(0.0, |_| of_offset);
                    next.code_near(value + sign * (bound + of_table))
                };
                CodeRange {
                    format: next.format,
                    ratio: f64::from(next.inverses[0]) / f64::from(next.inverses[1]),
                    low: data.packed_codes(gelu, |value| end(-1.0, value)),
                    high: data.packed_codes(gelu, |value| end(1.0, value)),
                }
            }),
        };
        case.by_strategy(strategies, &OF_INTEGERS)
    }

    /// Packs the codes that `code` makes of the values, or of their GELU, and their bounds.
    fn packed_codes(&self, gelu: Option<Gelu>, code: impl Fn((f64, f64)) -> u8) -> Vec<u32> {
        let IntegerProduct { batch, m, n, .. } = self.product;
        let outputs = self.outputs();
        packed([batch[0] * m, batch[1] * n], |row, column| {
            let (image, head) = (row / m, column / n);
            let problem = image * batch[1] + head;
            let output = &outputs[(problem * m + row % m) * n + column % n];
            let (mut value, mut bound) = match &self.bias {
                // The integers, times powers of two.
                None => (output.value().0, 0.0),
                Some(_) => output.value(),
            };
            if let Some(form) = gelu {
                let of_input = bound;
                (value, bound) = gelu::exact(form, value);
                // GELU is no steeper than 1.13, in any form.
                bound += 1.13 * of_input;
            }
            code((value, bound))
        })
    }

    /// Makes a case of the scores of candidates. Each term errs by the roundings of the value and of the difference,
    /// and by a few more; a line's terms are summed one after the other.
    fn errors(self, weighted: bool) -> Case {
        let weights = if weighted { "weighted " } else { "" };
        let (name, strategies) = (self.name(), self.strategies());
        let inputs = move || {
            let len = self.product.job_stride;
            let mut random = Random::new(3);
            let reference = random.bell(len, 0.0, 3e4);
            let weight = weighted.then(|| random.bell(len, 0.0, 1.0));
            (self, reference, weight)
        };
        let case = case(
            format!("{weights}errors of {name}"),
            inputs,
            |commands, device, (data, reference, weight)| {
                let reference = device.upload(reference);
                let weight = weight.as_ref().map(|weight| device.upload(weight));
                data.with_operands(device, |operands| {
                    let weight = weight.as_ref();
                    integer_product_error(commands, &data.product, operands, &reference, weight)
                })
            },
        );
        let case = case.close(|(data, reference, weight)| {
            let IntegerProduct {
                batch,
                m,
                n,
                jobs,
                job_stride,
                ..
            } = data.product;
            let mut expected = vec![(0.0, 0.0); jobs * data.groups];
            for output in data.outputs() {
                let (job, at) = (output.at / job_stride, output.at % job_stride);
                let inner = at / (m * n) % batch[1];
                let group = inner * data.inner_groups + at % n / data.group_columns;
                let by = weight.as_ref().map_or(1.0, |weight| f64::from(weight[at]));
                let (value, bound) = output.value();
                let difference = value - f64::from(reference[at]);
                let square = (by * difference).powi(2);
                let error = bound + EPSILON * difference.abs();
                let steps = 20.0 + data.group_columns as f64;
                let (sum, sum_bound) = &mut expected[job * data.groups + group];
                *sum += square;
                *sum_bound += 2.0 * by * by * difference.abs() * error + steps * EPSILON * square;
            }
            expected
        });
        case.by_strategy(strategies, &OF_INTEGERS)
    }

    /// Makes a case of rows in another order than the residual stream that they are added to, unless `from` is empty.
    fn residual(self, what: &str, from: &'static [u32], tokens: usize) -> Case {
        let IntegerProduct { m, n, .. } = self.product;
        let rows = m / from.len().max(1) * tokens;
        let (name, strategies) = (self.name(), self.strategies());
        let case = case(
            format!("residual, {what}{name}"),
            move || (self, Random::new(2).bell(rows * n, 0.0, 100.0)),
            move |commands, device, (data, values)| {
                let out = device.zeros(rows * n);
                let (values, uploaded) = (device.upload(values), device.upload(from));
                let order = TokenOrder {
                    from: &uploaded,
                    tokens,
                };
                let residual = Residual {
                    values: &values,
                    order: (!from.is_empty()).then_some(order),
                };
                data.with_operands(device, |operands| {
                    integer_product(commands, &data.product, operands, Some(residual), &out);
                });
                out
            },
        );
        let case = case.exact(move |(data, values)| {
            let mut expected = values.clone();
            for output in data.outputs() {
                let (row, column) = (output.at / n, output.at % n);
                let row = match from.get(row % from.len().max(1)) {
                    None => row,
                    Some(&token) if (token as usize) < tokens => {
                        row / from.len() * tokens + token as usize
                    }
                    Some(_) => continue,
                };
                expected[row * n + column] += output.rounded();
            }
            expected
        });
        case.by_strategy(strategies, &OF_INTEGERS)
    }
}

/// Describes a mistake in the shader that the cases find.
pub(in crate::kernels) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "dot(values, unpack4xI8(columns.w)),",
    wrong: "dot(values, unpack4xI8(columns.z)),",
});

pub(in crate::kernels) fn cases() -> Vec<Case> {
    let mut cases = ragged();
    cases.extend(many());
    cases.extend(narrow());
    cases.extend(longest_sums());
    cases.extend(groups());
    cases.extend(residuals());
    cases.extend(next_codes());
    cases.extend(errors());
    cases
}

fn ragged() -> Vec<Case> {
    // The lanes of tables are multiplied as those of the others.
    let of_table = |format| Data::single([65, 197, 7], format).shifted(4).exact("");
    let mut cases: Vec<Case> = TABLES.into_iter().map(of_table).collect();
    for format in FORMATS {
        // One more than a tile of each strategy, fewer rows than tiles are made for, and single ones of everything.
        for shape in [
            [1, 1, 1],
            [1, 3, 7],
            [3, 65, 1],
            [13, 12, 13],
            [17, 1, 1],
            [65, 197, 7],
            [197, 5, 65],
            [16, 3, 66],
            [130, 37, 131],
        ] {
            cases.push(Data::single(shape, format).exact(""));
        }
        for (per_job, what) in [
            ([false, false], "shared codes, "),
            ([false, true], "b per job, "),
            ([true, false], "a per job, "),
            ([true, true], "codes per job, "),
        ] {
            let mut data = Data::new([19, 13, 5], [2, 3], 4, per_job, format);
            data.scales = vec![1.0, 0.5, 4.0, 0.125];
            cases.push(data.exact(what));
        }
    }
    cases
}

/// Lists cases of so many matrices, and of such lengths, that each of the larger tiles of cooperative matrices is taken.
fn many() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in FORMATS {
        for (k, matrices) in [(132, 32), (70, 32), (70, 8)] {
            let mut data = Data::new([130, k, 132], [matrices, 1], 1, [false; 2], format);
            cases.push(data.clone().exact(""));
            let next = Group::of_scales(Format::Uniform, 8, [1.0 / 64.0; 2]);
            cases.push(data.clone().codes("", None, next));
            data.scales = vec![0.375];
            cases.push(data.errors(false));
        }
    }
    cases
}

/// Ends of packed groups anywhere, several matrices, and the ends of the codes' range.
fn narrow() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in FORMATS {
        for (bits, width) in [(6, Width::Six), (4, Width::Four)] {
            for shape in [
                [1, 1, 1],
                [3, 4, 7],
                [19, 13, 3],
                [18, 16, 65],
                [65, 197, 7],
                [17, 4100, 5],
            ] {
                let data = Data::single(shape, format).narrow(bits, width);
                cases.push(data.shifted(2).exact(""));
            }
            let jobs = Data::new([19, 13, 5], [2, 3], 4, [true; 2], format);
            cases.push(jobs.narrow(bits, width).exact(""));
        }
    }
    for (width, q) in [(Width::Six, 32), (Width::Four, 8)] {
        for (left, right) in [(0x80, -q), (0x80, q - 1), (0x7f, -q), (0x7f, q - 1)] {
            let mut data = Data::single([17, MAX_K, 5], Format::Uniform).filled([left; 2], right);
            data.product.b_width = width;
            cases.push(data.exact(&format!("all {} times {right}, ", left as i8)));
        }
    }
    cases
}

/// Lists cases of the longest sums there are, of the largest codes and the largest shift, and of sums that end a
/// stretch of exact f32 sums.
fn longest_sums() -> Vec<Case> {
    let mut cases = Vec::new();
    for k in [1024, 1025, MAX_K] {
        for (left, right) in [(0x80, -128), (0x80, 127), (0x7f, -128), (0x7f, 127)] {
            let data = Data::single([17, k, 5], Format::Uniform).filled([left; 2], right);
            cases.push(data.exact(&format!("all {} times {right}, ", left as i8)));
        }
        for format in [Format::SoftmaxTwin, Format::GeluTwin] {
            let ranges = [
                ("R1", [0x7f; 2]),
                ("R2", [0xff; 2]),
                ("R1 and R2 in turn", [0x7f, 0xff]),
            ];
            for (what, left) in ranges {
                let data = Data::single([17, k, 5], format).shifted(11);
                let what = format!("all 127 of {what} times -128, ");
                cases.push(data.filled(left, -128).exact(&what));
            }
        }
        // Sums that are no round numbers, so that an f32 couldn't hold them on the way; of either sign.
        for format in FORMATS {
            let data = Data::single([17, k, 5], format).shifted(11);
            cases.push(data.clone().exact("any codes, "));
            cases.push(data.near_the_largest().exact("large codes, "));
        }
    }
    cases
}

/// Scales of heads and of blocks of columns, outputs side by side and transposed, factors, a bias and any scale.
fn groups() -> Vec<Case> {
    let (images, tokens, heads, dim, jobs) = (2, 17, 3, 6, 2);
    let powers =
        |len: usize| -> Vec<f32> { (0..len).map(|at| (1u32 << at) as f32 / 16.0).collect() };
    let mut cases = Vec::new();
    for format in FORMATS {
        // The heads' outputs lie side by side, and jobs apart with a gap between them.
        let mut data = Data::new([tokens, 9, dim], [images, heads], jobs, [true; 2], format);
        let width = heads * dim;
        data.product.out = View::new(2, [tokens * width, dim], width, 1);
        data.product.job_stride = images * tokens * width + 5;
        data.len = jobs * data.product.job_stride;
        data.groups = heads;
        data.inner_groups = 1;
        data.scales = powers(jobs * heads);
        cases.push(data.exact("a scale for each head, "));

        // The last block of columns is cut off.
        let (m, n) = (21, 11);
        let mut data = Data::new([m, 9, n], [1, 1], jobs, [false, true], format);
        data.product.out = View::new(0, [0, 0], 1, m);
        data.group_columns = 4;
        data.groups = 3;
        data.scales = powers(jobs * 3);
        cases.push(data.exact("a scale for 4 columns, transposed, "));

        let mut data = Data::new([65, 197, 33], [1, 1], 3, [true, false], format);
        let mut random = Random::new(1);
        data.scales = random.unit(3);
        data.bias = Some(random.bell(33, 0.0, 1000.0));
        cases.push(data.clone().close("any scale and a bias, "));

        // A factor joins the scale, whatever both are, in one rounding; over orders of magnitude and of either sign.
        let factors = random.bell(33, 0.0, 1.0).into_iter();
        data.factors = Some(factors.map(|x| x.powi(3)).collect());
        let what = "a factor for each column, any scale and a bias, ";
        cases.push(data.clone().close(what));
        data.bias = None;
        cases.push(data.exact("a factor for each column, any scale, "));
    }
    cases
}

fn residuals() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in FORMATS {
        let mut data = Data::single([20, 9, 7], format);
        data.scales = vec![0.25];
        let mut with_factors = data.clone();
        with_factors.factors = Some((0..7).map(|column| (1u32 << column) as f32 / 8.0).collect());
        cases.push(with_factors.residual("a factor for each column, ", &[], 1));
        cases.push(data.clone().residual("", &[], 1));
        cases.push(data.clone().residual("reordered, ", &[2, 0, 4, 1, 3], 5));
        cases.push(data.residual("reordered, padded, ", &[2, 0, 3, 3, 1], 3));
    }
    cases
}

fn next_codes() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in FORMATS {
        for (gelu, next_format, bits, scale) in [
            (None, Format::Uniform, 8, 32.0),
            (None, Format::Uniform, 6, 128.0),
            (Some(Gelu::Exact), Format::GeluTwin, 8, 0.0625),
            (Some(Gelu::Exact), Format::Uniform, 4, 0.5),
            (None, Format::Table, 6, 128.0),
            (Some(Gelu::Exact), Format::TwinTable, 8, 0.0625),
            (Some(Gelu::Tanh), Format::GeluTwin, 8, 0.0625),
            (Some(Gelu::Quick), Format::GeluTwin, 8, 0.0625),
            (Some(Gelu::Silu), Format::GeluTwin, 8, 0.0625),
            (Some(Gelu::Relu), Format::TwinTable, 8, 0.0625),
        ] {
            let next = match TABLES.contains(&next_format) {
                false => {
                    let inverses = [1.0 / scale, 1.0 / (8.0 * scale)];
                    Group::of_scales(next_format, bits, inverses)
                }
                true => {
                    let scale_1 = Scale { scale, shift: 3 };
                    let mut random = Random::new(6);
                    Group::of_table(next_format, bits, scale_1, -4.7 * scale, &mut random)
                }
            };
            let side_by_side = Data::new([17, 13, 8], [2, 3], 1, [false; 2], format);
            let single = Data::single([65, 29, 7], format);
            let mut biased = single.clone();
            biased.bias = Some(Random::new(4).bell(7, 0.0, 0.5));
            for (what, mut data) in [("", side_by_side), ("", single), ("bias, ", biased)] {
                // GELU bends between -4 and 4; the integers reach some thousands.
                data.scales = vec![if gelu.is_some() { 1.0 / 1024.0 } else { 1.0 }];
                let of_gelu = match gelu {
                    None => "",
                    Some(Gelu::Exact) => "GELU, ",
                    Some(Gelu::Tanh) => "GELU by tanh, ",
                    Some(Gelu::Quick) => "quick GELU, ",
                    Some(Gelu::Silu) => "SiLU, ",
                    Some(Gelu::Relu) => "ReLU, ",
                };
                let case = data.codes(&format!("{of_gelu}{what}"), gelu, next.clone());
                // Every form and format is a kernel of its own to compile, which software drivers take seconds for.
                let is_usual = matches!(
                    (gelu, next_format),
                    (None, Format::Uniform) | (Some(Gelu::Exact), Format::GeluTwin)
                );
                cases.push(if is_usual { case } else { case.by_kind() });
            }
        }
    }
    cases
}

/// Lists cases of errors of thirds of the columns, heads of several images, one group whose last tile is not full, and
/// each column by itself; with and without weights.
fn errors() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in FORMATS {
        let mut thirds = Data::new([65, 9, 24], [1, 1], 3, [false, true], format);
        thirds.group_columns = 8;
        thirds.groups = 3;
        let mut heads = Data::new([17, 9, 7], [2, 3], 2, [true, false], format);
        heads.groups = 3;
        heads.inner_groups = 1;
        let whole = Data::new([73, 33, 13], [1, 1], 5, [true, false], format);
        let mut columns = Data::new([37, 33, 13], [1, 1], 3, [false, true], format);
        columns.group_columns = 1;
        columns.groups = 33;
        for mut data in [thirds, heads, whole, columns] {
            let mut random = Random::new(5);
            data.scales = random.unit(data.product.jobs * data.groups);
            let n = data.product.n;
            data.bias = (data.inner_groups == 0).then(|| random.bell(n, 0.0, 1000.0));
            cases.extend([false, true].map(|weighted| data.clone().errors(weighted)));
        }
    }
    cases
}
