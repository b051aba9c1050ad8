//! `integer_product` and its epilogues against sums in i64, from codes packed here.

use crate::harness::{EPSILON, Everywhere, Random};
use ptq4vit_gpu::device::{Buffer, Commands, Device};
use ptq4vit_gpu::kernels::{
    Format, IntegerProduct, NextCodes, Operands, Residual, TokenOrder, View, Width,
    integer_product, integer_product_codes, integer_product_error,
};
use std::collections::HashMap;

/// What lies in the output before the product: what no view names must stay.
const UNTOUCHED: f32 = -77.0;

/// The operands and the epilogue of a product, unpacked.
struct Case {
    product: IntegerProduct,
    /// `[job or 1][problem][m][k]`, one code a byte.
    a: Vec<u8>,
    /// `[job or 1][problem][k][n]`
    b: Vec<i8>,
    scales: Vec<f32>,
    groups: usize,
    inner_groups: usize,
    group_columns: usize,
    shifts: Vec<u32>,
    /// What columns' scales are multiplied by.
    factors: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    /// Length of the output.
    len: usize,
}

impl Case {
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
        let problems = batch[0] * batch[1];
        let times = |per_job: bool| if per_job { jobs } else { 1 };
        let mut random = Random::new((m * k * n * jobs) as u64);
        Self {
            a: random.bytes(times(a_per_job) * problems * m * k),
            b: random
                .bytes(times(b_per_job) * problems * k * n)
                .iter()
                .map(|&byte| byte as i8)
                .collect(),
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

    /// What the code of a left operand is worth, in units of `scale_1`.
    fn worth(&self, code: u8, job: usize) -> i64 {
        let magnitude = i64::from(code % 128);
        match (self.product.a_format, code >= 128) {
            (Format::Uniform, _) => i64::from(code as i8),
            (Format::SoftmaxTwin, false) => magnitude,
            (Format::GeluTwin, false) => -magnitude,
            (Format::SoftmaxTwin | Format::GeluTwin, true) => magnitude << self.shifts[job],
        }
    }

    fn factor(&self, column: usize) -> f32 {
        self.factors.as_ref().map_or(1.0, |factors| factors[column])
    }

    fn bias_of(&self, column: usize) -> f32 {
        self.bias.as_ref().map_or(0.0, |bias| bias[column])
    }

    /// Calls `visit` with the output's index, its column's scale (with the factor) and bias, and the exact integer.
    fn for_each_output(&self, mut visit: impl FnMut(usize, f32, f32, i64)) {
        let IntegerProduct { batch, m, n, k, .. } = self.product;
        let problems = batch[0] * batch[1];
        for job in 0..self.product.jobs {
            for problem in 0..problems {
                let (outer, inner) = (problem / batch[1], problem % batch[1]);
                let matrix = |per_job: bool| if per_job { job * problems } else { 0 } + problem;
                let a = &self.a[matrix(self.product.a_per_job) * m * k..][..m * k];
                let b = &self.b[matrix(self.product.b_per_job) * k * n..][..k * n];
                let view = self.product.out;
                for row in 0..m {
                    for column in 0..n {
                        let integer: i64 = (0..k)
                            .map(|k_at| {
                                let right = i64::from(b[k_at * n + column]);
                                self.worth(a[row * k + k_at], job) * right
                            })
                            .sum();
                        let group = inner * self.inner_groups + column / self.group_columns;
                        visit(
                            job * self.product.job_stride
                                + view.offset as usize
                                + outer * view.outer as usize
                                + inner * view.inner as usize
                                + row * view.row as usize
                                + column * view.column as usize,
                            self.scales[job * self.groups + group] * self.factor(column),
                            self.bias_of(column),
                            integer,
                        );
                    }
                }
            }
        }
    }

    /// `[matrix][word][row]`, rows padded with zeros to a multiple of four.
    fn packed_a(&self) -> Vec<u32> {
        let IntegerProduct { m, k, .. } = self.product;
        let mut words = Vec::new();
        for matrix in self.a.chunks(m * k) {
            for word in 0..k.div_ceil(4) {
                for row in 0..m.div_ceil(4) * 4 {
                    let lane = |lane: usize| {
                        let k_at = 4 * word + lane;
                        let inside = k_at < k && row < m;
                        let code = if inside { matrix[row * k + k_at] } else { 0 };
                        u32::from(code) << (8 * lane)
                    };
                    words.push(lane(0) + lane(1) + lane(2) + lane(3));
                }
            }
        }
        words
    }

    /// The same product from codes of `bits` bits on the right, stored in `width`.
    fn narrow(mut self, bits: u32, width: Width) -> Self {
        for code in &mut self.b {
            *code >>= 8 - bits;
        }
        self.product.b_width = width;
        self
    }

    /// `[matrix][word][column]`, columns padded with zeros to a multiple of four.
    fn packed_b(&self) -> Vec<u32> {
        let (k, n) = (self.product.k, self.product.n);
        if self.product.b_width != Width::Eight {
            let transposed = |matrix: &[i8]| -> Vec<i8> {
                (0..n * k).map(|at| matrix[at % k * n + at / k]).collect()
            };
            let matrices = self.b.chunks(k * n);
            let packed = matrices.map(|matrix| self.product.b_width.pack(&transposed(matrix), k));
            return packed.flatten().collect();
        }
        let mut words = Vec::new();
        for matrix in self.b.chunks(k * n) {
            for word in 0..k.div_ceil(4) {
                for column in 0..n.div_ceil(4) * 4 {
                    let lane = |lane: usize| {
                        let k_at = 4 * word + lane;
                        let inside = k_at < k && column < n;
                        let code = if inside { matrix[k_at * n + column] } else { 0 };
                        u32::from(code as u8) << (8 * lane)
                    };
                    words.push(lane(0) + lane(1) + lane(2) + lane(3));
                }
            }
        }
        words
    }

    fn run(&self, commands: &mut Commands, device: &Device) -> Buffer<f32> {
        let out = device.upload(&vec![UNTOUCHED; self.len]);
        self.with_operands(device, |operands| {
            integer_product(commands, &self.product, operands, None, &out);
        });
        out
    }

    /// Calls `run` with everything on `device`.
    fn with_operands<T>(&self, device: &Device, run: impl FnOnce(&Operands) -> T) -> T {
        let scales: Vec<f32> = self
            .scales
            .chunks(self.groups)
            .zip(&self.shifts)
            .flat_map(|(scales, &shift)| scales.iter().flat_map(move |&s| [s, shift as f32]))
            .collect();
        let n = self.product.n;
        let affine: Vec<f32> = (0..n)
            .flat_map(|column| [self.factor(column), self.bias_of(column)])
            .collect();
        let has_affine = self.factors.is_some() || self.bias.is_some();
        let affine = has_affine.then(|| device.upload(&affine));
        run(&Operands {
            a: &device.upload(&self.packed_a()),
            b: &device.upload(&self.packed_b()),
            scales: &device.upload(&scales),
            groups: self.groups,
            inner_groups: self.inner_groups,
            group_columns: self.group_columns,
            affine: affine.as_ref(),
        })
    }

    fn name(&self) -> String {
        let IntegerProduct { m, n, k, jobs, .. } = self.product;
        format!("{:?} {m}x{k}x{n}, {jobs} jobs", self.product.a_format)
    }

    /// Every device gives the exact integer, rounded once to an f32, times its scale. Where integers are beyond 24 bits, scales
    /// must be powers of two.
    fn check_exact(&self, everywhere: &Everywhere) {
        let mut expected = vec![UNTOUCHED; self.len];
        self.for_each_output(|at, scale, bias, integer| {
            assert_eq!(bias, 0.0);
            expected[at] = integer as f32 * scale;
        });
        everywhere.equal(&self.name(), &expected, |commands, device| {
            self.run(commands, device)
        });
    }

    /// Every device gives scale · integer + bias. Rounding the integer, the product and the sum errs by half an epsilon
    /// of each; a twin's integer is rounded twice when it exceeds 2^24; fusing the sum spares one.
    fn check_close(&self, everywhere: &Everywhere) {
        let mut expected = vec![(f64::from(UNTOUCHED), 0.0); self.len];
        self.for_each_output(|at, scale, bias, integer| {
            let product = integer as f64 * f64::from(scale);
            let exact = product + f64::from(bias);
            expected[at] = (exact, EPSILON * (1.5 * product.abs() + 0.5 * exact.abs()));
        });
        everywhere.close(&self.name(), &expected, |commands, device| {
            self.run(commands, device)
        });
    }
}

const FORMATS: [Format; 3] = [Format::Uniform, Format::SoftmaxTwin, Format::GeluTwin];

#[test]
fn ragged_sizes_give_the_exact_integer() {
    let everywhere = Everywhere::with_every_strategy();
    for format in FORMATS {
        for shape in [
            [1, 1, 1],
            [1, 3, 7],
            [3, 65, 1],
            [7, 7, 3],
            [65, 197, 7],
            [197, 5, 65],
            [9, 64, 64],
            [17, 1, 1],
            [16, 3, 66],
            [130, 37, 131],
        ] {
            Case::new(shape, [1, 1], 1, [false; 2], format).check_exact(&everywhere);
        }
    }
}

/// Packed codes give the exact integer too, with ends of groups anywhere and several matrices.
#[test]
fn packed_codes_give_the_exact_integer() {
    let everywhere = Everywhere::with_every_strategy();
    for format in FORMATS {
        for (bits, width) in [(6, Width::Six), (5, Width::Six), (4, Width::Four)] {
            for shape in [
                [1, 1, 1],
                [3, 4, 7],
                [19, 13, 3],
                [18, 16, 65],
                [65, 197, 7],
                [9, 64, 64],
                [17, 4100, 5],
            ] {
                let mut case = Case::new(shape, [1, 1], 1, [false; 2], format).narrow(bits, width);
                case.shifts = vec![2];
                case.check_exact(&everywhere);
            }
            let case = Case::new([19, 13, 5], [2, 3], 4, [true; 2], format);
            case.narrow(bits, width).check_exact(&everywhere);
        }
    }
}

/// The largest and the smallest codes: the shifted lanes' sums are as large as those of 8-bit codes.
#[test]
fn packed_codes_at_the_ends_of_their_range() {
    let everywhere = Everywhere::with_every_strategy();
    for (width, q) in [(Width::Six, 32), (Width::Four, 8)] {
        for (left, right) in [(0x80, -q), (0x80, q - 1), (0x7f, -q), (0x7f, q - 1)] {
            let mut case = Case::new([17, 4100, 5], [1, 1], 1, [false; 2], Format::Uniform);
            case.a.fill(left);
            case.b.fill(right);
            case.product.b_width = width;
            case.check_exact(&everywhere);
        }
    }
}

#[test]
fn jobs_with_codes_of_their_own_or_shared() {
    let everywhere = Everywhere::with_every_strategy();
    for format in FORMATS {
        for per_job in [[false, false], [false, true], [true, false], [true, true]] {
            let mut case = Case::new([19, 13, 5], [2, 3], 4, per_job, format);
            case.scales = vec![1.0, 0.5, 4.0, 0.125];
            case.check_exact(&everywhere);
        }
    }
}

#[test]
fn scales_of_heads_and_of_column_blocks_and_a_strided_output() {
    let everywhere = Everywhere::with_every_strategy();
    let (images, tokens, heads, dim, jobs) = (2, 17, 3, 6, 2);
    let powers = |len: usize| (0..len).map(|at| 2f32.powi(at as i32 - 4)).collect();
    for format in FORMATS {
        // One scale per head; the heads' outputs lie side by side, and jobs apart with a gap between them.
        let mut case = Case::new([tokens, 9, dim], [images, heads], jobs, [true; 2], format);
        let width = heads * dim;
        case.product.out = View::new(2, [tokens * width, dim], width, 1);
        case.product.job_stride = images * tokens * width + 5;
        case.len = jobs * case.product.job_stride;
        case.groups = heads;
        case.inner_groups = 1;
        case.scales = powers(jobs * heads);
        case.check_exact(&everywhere);

        // One scale per block of columns, the last block cut off; the output is transposed.
        let (m, n) = (21, 11);
        let mut case = Case::new([m, 9, n], [1, 1], jobs, [false, true], format);
        case.product.out = View::new(0, [0, 0], 1, m);
        case.group_columns = 4;
        case.groups = 3;
        case.scales = powers(jobs * 3);
        case.check_exact(&everywhere);
    }
}

#[test]
fn a_bias_and_any_scale() {
    let everywhere = Everywhere::with_every_strategy();
    for format in FORMATS {
        let mut case = Case::new([65, 197, 33], [1, 1], 3, [true, false], format);
        let mut random = Random::new(1);
        case.scales = random.unit(3);
        case.bias = Some(random.normal(33, 0.0, 1000.0));
        case.check_close(&everywhere);
    }
}

/// A column's factor joins its scale in one rounding, so what becomes of an exact integer has the same bits everywhere.
#[test]
fn a_factor_for_each_column() {
    let everywhere = Everywhere::with_every_strategy();
    for format in FORMATS {
        let mut random = Random::new(1);
        let mut case = Case::new([65, 29, 33], [1, 1], 3, [true, false], format);
        case.group_columns = 11;
        case.groups = 3;
        case.scales = random.unit(9);
        case.shifts = vec![3; 3];
        let cubes = random.normal(33, 0.0, 1.0);
        case.factors = Some(cubes.iter().map(|x| x * x * x).collect());
        case.check_exact(&everywhere);
        case.bias = Some(random.normal(33, 0.0, 1000.0));
        case.check_close(&everywhere);
    }
}

/// Sums longer than what the CPU adds up in one f32 product, of the largest codes there are.
#[test]
fn long_sums_of_extreme_codes() {
    let everywhere = Everywhere::with_every_strategy();
    for k in [1024, 1025, 4100] {
        for (left, right) in [(0x80, -128), (0x80, 127), (0x7f, -128), (0x7f, 127)] {
            let mut case = Case::new([17, k, 5], [1, 1], 1, [false; 2], Format::Uniform);
            case.a.fill(left);
            case.b.fill(right);
            case.check_exact(&everywhere);
        }
        for format in [Format::SoftmaxTwin, Format::GeluTwin] {
            // All in R1, all in R2, and both in turn; the largest shift.
            for (even, odd) in [(0x7f, 0x7f), (0xff, 0xff), (0x7f, 0xff)] {
                for right in [-128, 127] {
                    let mut case = Case::new([17, k, 5], [1, 1], 1, [false; 2], format);
                    for (at, code) in case.a.iter_mut().enumerate() {
                        *code = if at % 2 == 0 { even } else { odd };
                    }
                    case.b.fill(right);
                    case.shifts = vec![11];
                    case.check_close(&everywhere);
                }
            }
        }
        // Large codes whose sums are no round numbers, so that an f32 couldn't hold them on the way.
        let mut case = Case::new([17, k, 5], [1, 1], 1, [false; 2], Format::Uniform);
        case.a.iter_mut().for_each(|code| *code = *code & 7 | 120);
        case.b.iter_mut().for_each(|code| *code = *code & 7 | 120);
        case.check_exact(&everywhere);
        // Random codes reach integers of either sign.
        for format in FORMATS {
            let mut case = Case::new([18, k, 9], [1, 1], 1, [false; 2], format);
            case.shifts = vec![11];
            case.check_close(&everywhere);
        }
    }
}

/// Where a twin's integer exceeds an f32, it is rounded twice; both roundings are the same on every device.
#[test]
fn devices_agree_bit_for_bit_beyond_24_bits() {
    let everywhere = Everywhere::with_every_strategy();
    let cpu = Device::cpu();
    for format in FORMATS {
        let mut case = Case::new([17, 4100, 9], [1, 1], 1, [false; 2], format);
        // Positive and large on the right: sums of R2 well above 2^24.
        for code in &mut case.b {
            *code = code.saturating_abs();
        }
        case.shifts = vec![11];
        let expected = cpu
            .read(&case.run(&mut Commands::new(&cpu), &cpu))
            .expect("the CPU's result");
        everywhere.equal(&case.name(), &expected, |commands, device| {
            case.run(commands, device)
        });
    }
}

#[test]
fn a_residual_is_added_and_rows_are_put_in_order() {
    let everywhere = Everywhere::with_every_strategy();
    // With the tokens of an image, beyond which is padding.
    let orders: [Option<([u32; 5], usize)>; 3] =
        [None, Some(([2, 0, 4, 1, 3], 5)), Some(([2, 0, 3, 9, 1], 3))];
    for format in FORMATS {
        let (m, n) = (20, 7);
        let mut case = Case::new([m, 9, n], [1, 1], 1, [false; 2], format);
        case.scales = vec![0.25];
        case.factors = Some((0..n).map(|column| 2f32.powi(column as i32 - 3)).collect());
        for order in orders {
            let rows = order.map_or(m, |(from, tokens)| m / from.len() * tokens);
            let residual = Random::new(2).normal(rows * n, 0.0, 100.0);
            let mut expected = residual.clone();
            case.for_each_output(|at, scale, _, integer| {
                let (row, column) = (at / n, at % n);
                let row = match order {
                    None => row,
                    Some((from, tokens)) => match from[row % from.len()] as usize {
                        token if token < tokens => row / from.len() * tokens + token,
                        _ => return,
                    },
                };
                expected[row * n + column] += integer as f32 * scale;
            });
            everywhere.equal(&case.name(), &expected, |commands, device| {
                let out = device.zeros(rows * n);
                let values = device.upload(&residual);
                let order = order.map(|(from, tokens)| (device.upload(&from), tokens));
                let residual = Residual {
                    values: &values,
                    order: order.as_ref().map(|(from, tokens)| TokenOrder {
                        from,
                        tokens: *tokens,
                    }),
                };
                case.with_operands(device, |operands| {
                    integer_product(commands, &case.product, operands, Some(residual), &out);
                });
                out
            });
        }
    }
}

/// The code of `x` by the definition, in f64: `q` is 2^(bits - 1), and a twin's `scale_2` is 8 times its `scale_1`.
fn code(format: Format, x: f64, scale: f64, q: f64) -> u8 {
    let magnitude = |scale: f64| (x.abs() / scale).round_ties_even().min(q - 1.0) as u8;
    match format {
        Format::Uniform => (x / scale).round_ties_even().clamp(-q, q - 1.0) as i8 as u8,
        Format::GeluTwin if x < 0.0 => magnitude(scale),
        Format::GeluTwin => 0x80 | magnitude(8.0 * scale),
        Format::SoftmaxTwin => unreachable!("no product's values are probabilities"),
    }
}

/// Codes of a single matrix, whose last word is not full, and of heads side by side.
#[test]
fn values_become_the_next_products_codes() {
    let everywhere = Everywhere::with_every_strategy();
    let next = |gelu, format, bits, scale: f32| NextCodes {
        gelu,
        format,
        bits,
        inverses: [1.0 / scale, 1.0 / (8.0 * scale)],
    };
    for a_format in FORMATS {
        for (next, scale) in [
            (next(false, Format::Uniform, 8, 32.0), 32.0),
            (next(false, Format::Uniform, 6, 128.0), 128.0),
            (next(true, Format::GeluTwin, 8, 0.0625), 0.0625),
            (next(true, Format::Uniform, 4, 0.5), 0.5),
        ] {
            let q = f64::from(1u32 << (next.bits - 1));
            let side_by_side = Case::new([17, 13, 8], [2, 3], 1, [false; 2], a_format);
            let single = Case::new([65, 29, 7], [1, 1], 1, [false; 2], a_format);
            for mut case in [side_by_side, single] {
                // GELU bends between -4 and 4; the integers reach some thousands.
                case.scales = vec![if next.gelu { 2f32.powi(-10) } else { 1.0 }];
                let IntegerProduct { batch, m, n, .. } = case.product;
                let (view, len) = case
                    .product
                    .words_of_rows()
                    .expect("no word spans two heads");
                let padded_rows = (batch[0] * m).div_ceil(4) * 4;
                // Each lane may hold either of two codes where the value lies within f32's error of their boundary.
                let mut lanes = vec![None; 4 * len];
                case.for_each_output(|at, scale_of_one, _, integer| {
                    let (matrix, row, column) = (at / (m * n), at / n % m, at % n);
                    let (image, head) = (matrix / batch[1], matrix % batch[1]);
                    let word = (head * n + column) / 4 * padded_rows + image * m + row;
                    let x = integer as f64 * f64::from(scale_of_one);
                    // 5 epsilons of GELU's magnitude or of 1e-3 (kernels::gelu), one more for the inverse.
                    let (x, error) = if next.gelu {
                        let gelu = 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2);
                        (gelu, 6.0 * EPSILON * gelu.abs().max(1e-3))
                    } else {
                        (x, 0.0)
                    };
                    let code = |x| code(next.format, x, scale, q);
                    lanes[4 * word + column % 4] = Some([code(x - error), code(x + error)]);
                    if batch[1] == 1 && column == n - 1 {
                        // Beyond the last column.
                        lanes[4 * word + n % 4..4 * word + 4].fill(Some([0; 2]));
                    }
                });
                let product = IntegerProduct {
                    out: view,
                    ..case.product
                };
                for (name, device) in everywhere.devices() {
                    let out = device.zeros(len);
                    let mut commands = Commands::new(device);
                    case.with_operands(device, |operands| {
                        integer_product_codes(&mut commands, &product, operands, &next, &out);
                    });
                    let found = commands.read(&out).expect("codes");
                    let found = found.iter().flat_map(|word| word.to_le_bytes());
                    for (at, (found, either)) in found.zip(&lanes).enumerate() {
                        // Rows that only pad the matrix hold anything.
                        let Some(either) = either else { continue };
                        assert!(
                            either.contains(&found),
                            "{}, {next:?} on {name}: lane {at} is {found:#x} instead of {either:x?}",
                            case.name(),
                        );
                    }
                }
            }
        }
    }
}

/// Thirds of the columns, heads of several images, one group whose last tile is not full, and each column by itself; with and without weights.
/// Each term errs by the roundings of the value (1.5 epsilons of the product, 0.5 of the sum), and their sum by a few
/// more.
#[test]
fn errors_are_summed_by_group() {
    let everywhere = Everywhere::with_every_strategy();
    for format in FORMATS {
        let mut thirds = Case::new([65, 9, 24], [1, 1], 3, [false, true], format);
        thirds.group_columns = 8;
        thirds.groups = 3;
        let mut heads = Case::new([17, 9, 7], [2, 3], 2, [true, false], format);
        heads.groups = 3;
        heads.inner_groups = 1;
        let whole = Case::new([73, 33, 13], [1, 1], 5, [true, false], format);
        let mut columns = Case::new([37, 33, 13], [1, 1], 3, [false, true], format);
        columns.group_columns = 1;
        columns.groups = columns.product.n;
        for mut case in [thirds, heads, whole, columns] {
            let IntegerProduct { m, n, jobs, .. } = case.product;
            let len = case.product.job_stride;
            let mut random = Random::new(3);
            case.scales = random.unit(jobs * case.groups);
            case.bias = (case.inner_groups == 0).then(|| random.normal(n, 0.0, 1000.0));
            case.factors = case.bias.is_some().then(|| random.normal(n, 1.0, 0.5));
            let reference = random.normal(len, 0.0, 3e4);
            let weight = random.normal(len, 0.0, 1.0);
            for weighted in [false, true] {
                let mut expected = vec![(0.0, 0.0); jobs * case.groups];
                case.for_each_output(|at, scale, bias, integer| {
                    let (job, at) = (at / len, at % len);
                    let inner = at / (m * n) % case.product.batch[1];
                    let group = inner * case.inner_groups + at % n / case.group_columns;
                    let by = if weighted { f64::from(weight[at]) } else { 1.0 };
                    let product = integer as f64 * f64::from(scale);
                    let exact = product + f64::from(bias);
                    let difference = exact - f64::from(reference[at]);
                    let error = 1.5 * product.abs() + 0.5 * exact.abs() + difference.abs();
                    let (sum, bound) = &mut expected[job * case.groups + group];
                    let square = (by * difference).powi(2);
                    *sum += square;
                    *bound += EPSILON * (2.0 * by * by * difference.abs() * error + 20.0 * square);
                });
                let errors = |commands: &mut Commands, device: &Device| {
                    let reference = device.upload(&reference);
                    let weight = weighted.then(|| device.upload(&weight));
                    case.with_operands(device, |operands| {
                        let weight = weight.as_ref();
                        integer_product_error(commands, &case.product, operands, &reference, weight)
                    })
                };
                everywhere.close(&case.name(), &expected, errors);
                // On one adapter every strategy adds up the same terms in the same order.
                let mut of_adapters: HashMap<&str, Vec<f32>> = HashMap::new();
                for (strategy, device) in everywhere.devices() {
                    let mut commands = Commands::new(device);
                    let found = errors(&mut commands, device);
                    let found = commands.read(&found).expect("errors");
                    let first = of_adapters.entry(device.name()).or_insert(found.clone());
                    assert_eq!(*first, found, "{} on {strategy}", case.name());
                }
            }
        }
    }
}
