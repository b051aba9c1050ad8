//! Integer products and their epilogues. The integers, and what is computed of them by one rounding, are compared bit for
//! bit, up to the longest sums of the largest codes.

use super::super::random::Random;
use super::codes::{FORMATS, format_name};
use super::elements::gelu_bound;
use super::{Case, CodeRange, Counted, EPSILON, Tolerance};
use crate::device::{Buffer, Commands, Device};
use crate::error::Result;
use crate::kernels::{
    Format, IntegerProduct, MAX_K, NextCodes, Operands, Quantize, Residual, TokenOrder, View,
    Width, affine, gelu, integer_product, integer_product_codes, integer_product_error, quantize,
};

/// What lies in the output before the product: what no view names must stay.
const UNTOUCHED: f32 = -77.0;

/// The operands of a product, unpacked.
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
    /// Of each job.
    shifts: Vec<u32>,
    /// What columns' scales are multiplied by.
    factors: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    /// Length of the output.
    len: usize,
}

impl Data {
    /// Random codes, one scale (1, so that the integer itself comes out), no bias, outputs one after another.
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

    /// A single matrix.
    fn single(shape: [usize; 3], format: Format) -> Self {
        Self::new(shape, [1, 1], 1, [false; 2], format)
    }

    /// The same product from codes of `bits` bits on the right, stored in `width`.
    fn narrow(mut self, bits: u32, width: Width) -> Self {
        for code in &mut self.b {
            *code >>= 8 - bits;
        }
        self.product.b_width = width;
        self
    }

    /// The same with all codes of a kind: on the left in turn along k.
    fn filled(mut self, left: [u8; 2], right: i8) -> Self {
        let k = self.product.k;
        for (at, code) in self.a.iter_mut().enumerate() {
            *code = left[at % k % 2];
        }
        self.b.fill(right);
        self
    }

    /// The same with codes near the largest, whose sums are no round numbers.
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

    /// What strategies of this product are set by.
    fn strategies(&self) -> &'static str {
        match self.product.a_format.is_twin() {
            true => "integer_product_twin",
            false => "integer_product",
        }
    }

    /// Calls `run` with everything on `device`.
    fn with_operands<T>(&self, device: &Device, run: impl FnOnce(&Operands) -> T) -> T {
        let IntegerProduct {
            m, k, n, b_width, ..
        } = self.product;
        let left: Vec<i8> = self.a.iter().map(|&code| code as i8).collect();
        let a: Vec<u32> = left
            .chunks(m * k)
            .flat_map(|codes| Width::Eight.pack(codes, k))
            .collect();
        let b: Vec<u32> = self
            .b
            .chunks(n * k)
            .flat_map(|codes| b_width.pack(codes, k))
            .collect();
        let of_jobs = self.scales.chunks(self.groups).zip(&self.shifts);
        let scales: Vec<f32> = of_jobs
            .flat_map(|(scales, &shift)| {
                scales.iter().flat_map(move |&scale| [scale, shift as f32])
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

    fn values(&self, commands: &mut Commands, device: &Device) -> Buffer<f32> {
        let out = device.upload(&vec![UNTOUCHED; self.len]);
        self.with_operands(device, |operands| {
            integer_product(commands, &self.product, operands, None, &out);
        });
        out
    }

    /// Bounds where scales are no powers of two or there is a bias: the product with the scale may be rounded or be fused
    /// into the sum, which is rounded on both sides.
    fn bounds(&self, values: &[f32]) -> Vec<f64> {
        let largest = self
            .bias
            .iter()
            .flatten()
            .fold(0.0f32, |a, x| a.max(x.abs()));
        let values = values.iter().map(|value| f64::from(value.abs()));
        values
            .map(|value| EPSILON * (1.5 * value + 0.5 * f64::from(largest)))
            .collect()
    }

    /// The integers, times powers of two.
    fn exact(self, what: &str) -> Case {
        let (name, strategies) = (format!("{what}{}", self.name()), self.strategies());
        let case = Case::exact("integer_product", name, move |commands, device| {
            self.values(commands, device)
        });
        case.by_strategy(strategies)
    }

    fn close(self, what: &str) -> Case {
        let (name, strategies) = (format!("{what}{}", self.name()), self.strategies());
        let of_bounds = self.clone();
        let bounds = move |expected: &[f32]| of_bounds.bounds(expected);
        let case = Case::close("integer_product", name, bounds, move |commands, device| {
            self.values(commands, device)
        });
        case.by_strategy(strategies)
    }

    /// Codes of the next product, all heads side by side.
    fn codes(self, what: &str, next: NextCodes) -> Case {
        let name = format!(
            "{what}{} to {} of {} bits",
            self.name(),
            format_name(next.format),
            next.bits
        );
        let strategies = self.strategies();
        let of_range = self.clone();
        let exact = !next.gelu && self.bias.is_none();
        let tolerance = match exact {
            true => Tolerance::None,
            false => Tolerance::Codes(Box::new(move || of_range.code_range(&next))),
        };
        let case = Case::new(
            "integer_product",
            name,
            tolerance,
            move |commands, device| {
                let (out, len) = self
                    .product
                    .words_of_rows()
                    .expect("no word spans two heads");
                let product = IntegerProduct {
                    out,
                    ..self.product
                };
                let codes = device.zeros(len);
                self.with_operands(device, |operands| {
                    integer_product_codes(commands, &product, operands, &next, &codes);
                });
                let rows = product.batch[0] * product.m;
                let padded = rows.next_multiple_of(4);
                Counted(codes, (0..len).map(|at| at % padded < rows).collect())
            },
        );
        case.by_strategy(strategies)
    }

    /// The codes of what the values may be.
    fn code_range(&self, next: &NextCodes) -> Result<CodeRange> {
        let cpu = Device::cpu();
        let IntegerProduct {
            batch: [outer, inner],
            m,
            n,
            ..
        } = self.product;
        let width = inner * n;
        let mut side_by_side = self.clone();
        side_by_side.product.out = View::new(0, [m * width, n], width, 1);
        let values = side_by_side.values(&mut Commands::new(&cpu), &cpu);
        let inputs = cpu.read(&values)?;
        let mut bounds = self.bounds(&inputs);
        let mut results = inputs.clone();
        if next.gelu {
            results = cpu.read(&gelu(&mut Commands::new(&cpu), &values))?;
            for ((bound, &x), &result) in bounds.iter_mut().zip(&inputs).zip(&results) {
                // GELU is no steeper than 1.13.
                *bound = 1.13 * *bound + gelu_bound(x, result);
            }
        }
        let quantizer = Quantize {
            source: View::rows(width),
            batch: [1, 1],
            rows: outer * m,
            k: width,
            jobs: 1,
            groups: 1,
            inner_groups: 0,
            group_rows: outer * m,
            bits: next.bits,
            format: next.format,
        };
        let moved = |by: f64| -> Result<Vec<u32>> {
            let pairs = results.iter().zip(&bounds);
            let moved: Vec<f32> = pairs
                .map(|(&x, bound)| (f64::from(x) + by * bound) as f32)
                .collect();
            let commands = &mut Commands::new(&cpu);
            let (moved, inverses) = (cpu.upload(&moved), cpu.upload(&next.inverses));
            let codes = quantize(commands, &quantizer, &moved, &inverses);
            commands.read(&codes)
        };
        Ok(CodeRange {
            format: next.format,
            ratio: f64::from(next.inverses[0]) / f64::from(next.inverses[1]),
            low: moved(-1.0)?,
            high: moved(1.0)?,
        })
    }

    /// The score of candidates.
    fn errors(self, weighted: bool) -> Case {
        let weights = if weighted { "weighted " } else { "" };
        let (name, strategies) = (
            format!("{weights}errors of {}", self.name()),
            self.strategies(),
        );
        let len = self.product.job_stride;
        let mut random = Random::new(3);
        let reference = random.bell(len, 0.0, 3e4);
        let weight = weighted.then(|| random.bell(len, 0.0, 1.0));
        let (of_bounds, of_reference, of_weight) =
            (self.clone(), reference.clone(), weight.clone());
        let bounds = move |_: &[f32]| of_bounds.error_bounds(&of_reference, of_weight.as_deref());
        let case = Case::close("integer_product", name, bounds, move |commands, device| {
            let reference = device.upload(&reference);
            let weight = weight.as_ref().map(|weight| device.upload(weight));
            self.with_operands(device, |operands| {
                integer_product_error(
                    commands,
                    &self.product,
                    operands,
                    &reference,
                    weight.as_ref(),
                )
            })
        });
        case.by_strategy(strategies)
    }

    /// Each term errs by the roundings of the value and of the difference; a line's terms are summed one after the other.
    fn error_bounds(&self, reference: &[f32], weight: Option<&[f32]>) -> Vec<f64> {
        let cpu = Device::cpu();
        let values = cpu
            .read(&self.values(&mut Commands::new(&cpu), &cpu))
            .expect("the CPU's memory can be read");
        let largest = self
            .bias
            .iter()
            .flatten()
            .fold(0.0f32, |a, x| a.max(x.abs()));
        let IntegerProduct {
            batch,
            m,
            n,
            jobs,
            job_stride,
            ..
        } = self.product;
        let mut bounds = vec![0.0; jobs * self.groups];
        for (at, &value) in values.iter().enumerate() {
            let (job, at) = (at / job_stride, at % job_stride);
            let inner = at / (m * n) % batch[1];
            let group = inner * self.inner_groups + at % n / self.group_columns;
            let by = weight.map_or(1.0, |weight| f64::from(weight[at]));
            let value = f64::from(value);
            let difference = value - f64::from(reference[at]);
            let error = 2.0 * value.abs() + 1.5 * f64::from(largest) + difference.abs();
            let steps = 20.0 + self.group_columns as f64;
            let terms = 2.0 * difference.abs() * error + steps * difference * difference;
            bounds[job * self.groups + group] += 2.0 * EPSILON * by * by * terms;
        }
        bounds
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = ragged();
    cases.extend(packed());
    cases.extend(longest_sums());
    cases.extend(groups());
    cases.extend(epilogues());
    cases
}

fn ragged() -> Vec<Case> {
    let mut cases = Vec::new();
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
        for per_job in [[false, false], [false, true], [true, false], [true, true]] {
            let mut data = Data::new([19, 13, 5], [2, 3], 4, per_job, format);
            data.scales = vec![1.0, 0.5, 4.0, 0.125];
            let what = match per_job {
                [false, false] => "shared codes, ",
                [false, true] => "b per job, ",
                [true, false] => "a per job, ",
                [true, true] => "codes per job, ",
            };
            cases.push(data.exact(what));
        }
    }
    cases
}

/// Ends of packed groups anywhere, several matrices, and the ends of the codes' range.
fn packed() -> Vec<Case> {
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
                cases.push(
                    Data::single(shape, format)
                        .narrow(bits, width)
                        .shifted(2)
                        .exact(""),
                );
            }
            let jobs = Data::new([19, 13, 5], [2, 3], 4, [true; 2], format);
            cases.push(jobs.narrow(bits, width).exact(""));
        }
    }
    for (width, q) in [(Width::Six, 32), (Width::Four, 8)] {
        for (left, right) in [(0x80, -q), (0x7f, -q)] {
            let mut data = Data::single([17, MAX_K, 5], Format::Uniform).filled([left; 2], right);
            data.product.b_width = width;
            cases.push(data.exact(&format!("all {} times {right}, ", left as i8)));
        }
    }
    cases
}

/// The longest sums there are, of the largest codes and the largest shift; and such as end a stretch of exact f32 sums.
fn longest_sums() -> Vec<Case> {
    let mut cases = Vec::new();
    for k in [1024, 1025, MAX_K] {
        for (left, right) in [(0x80, -128), (0x7f, -128)] {
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
                let data = Data::single([17, k, 5], format)
                    .shifted(11)
                    .filled(left, -128);
                cases.push(data.exact(&format!("all 127 of {what} times -128, ")));
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

/// Scales of heads and of blocks of columns, outputs side by side and transposed, a bias and any scale.
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
        data.factors = Some(
            random
                .bell(33, 0.0, 1.0)
                .iter()
                .map(|x| x.powi(3))
                .collect(),
        );
        cases.push(
            data.clone()
                .close("a factor for each column, any scale and a bias, "),
        );
        data.bias = None;
        cases.push(data.exact("a factor for each column, any scale, "));
    }
    cases
}

fn epilogues() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in FORMATS {
        let orders: [(&str, &[u32], usize); 3] = [
            ("", &[], 1),
            ("reordered, ", &[2, 0, 4, 1, 3], 5),
            ("reordered, padded, ", &[2, 0, 3, 3, 1], 3),
        ];
        cases.extend(orders.map(|(what, from, tokens)| residual(format, what, from, tokens)));
        for (gelu, next_format, bits, scale) in [
            (false, Format::Uniform, 8, 32.0),
            (false, Format::Uniform, 6, 128.0),
            (true, Format::GeluTwin, 8, 0.0625),
            (true, Format::Uniform, 4, 0.5),
        ] {
            let next = NextCodes {
                gelu,
                format: next_format,
                bits,
                inverses: [1.0 / scale, 1.0 / (8.0 * scale)],
            };
            let side_by_side = Data::new([17, 13, 8], [2, 3], 1, [false; 2], format);
            let single = Data::single([65, 29, 7], format);
            let mut biased = single.clone();
            biased.bias = Some(Random::new(4).bell(7, 0.0, 0.5));
            for (what, mut data) in [("", side_by_side), ("", single), ("bias, ", biased)] {
                // GELU bends between -4 and 4; the integers reach some thousands.
                data.scales = vec![if gelu { 1.0 / 1024.0 } else { 1.0 }];
                cases
                    .push(data.codes(&format!("{}{what}", if gelu { "GELU, " } else { "" }), next));
            }
        }
        let mut thirds = Data::new([65, 9, 24], [1, 1], 3, [false, true], format);
        thirds.group_columns = 8;
        thirds.groups = 3;
        let mut heads = Data::new([17, 9, 7], [2, 3], 2, [true, false], format);
        heads.groups = 3;
        heads.inner_groups = 1;
        let whole = Data::new([73, 33, 13], [1, 1], 5, [true, false], format);
        for mut data in [thirds, heads, whole] {
            let mut random = Random::new(5);
            data.scales = random.unit(data.product.jobs * data.groups);
            let n = data.product.n;
            data.bias = (data.inner_groups == 0).then(|| random.bell(n, 0.0, 1000.0));
            cases.extend([false, true].map(|weighted| data.clone().errors(weighted)));
        }
    }
    cases
}

/// Rows in another order than the residual stream that they are added to, unless `from` is empty.
fn residual(format: Format, what: &str, from: &'static [u32], tokens: usize) -> Case {
    let (m, n) = (20, 7);
    let mut data = Data::single([m, 9, n], format);
    data.scales = vec![0.25];
    let name = format!("residual, {what}{}", data.name());
    let strategies = data.strategies();
    let rows = m / from.len().max(1) * tokens;
    let case = Case::exact("integer_product", name, move |commands, device| {
        let out = device.zeros(rows * n);
        let values = device.upload(&Random::new(2).bell(rows * n, 0.0, 100.0));
        let uploaded = device.upload(from);
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
    });
    case.by_strategy(strategies)
}
