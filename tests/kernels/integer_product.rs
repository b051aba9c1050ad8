//! `integer_product` against sums in i64, from codes packed here.

use crate::harness::{EPSILON, Everywhere, Random};
use ptq4vit_gpu::kernels::{Format, IntegerProduct, OutputScales, View, integer_product};

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

    /// Calls `visit` with the output's index, its column's scale and bias, and the exact integer.
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
                            self.scales[job * self.groups + group],
                            self.bias.as_ref().map_or(0.0, |bias| bias[column]),
                            integer,
                        );
                    }
                }
            }
        }
    }

    /// `[matrix][row][word]`
    fn packed_a(&self) -> Vec<u32> {
        let k = self.product.k;
        let row_words = |row: &[u8]| -> Vec<u32> {
            row.chunks(4)
                .map(|lanes| {
                    lanes
                        .iter()
                        .rev()
                        .fold(0, |word, &lane| word << 8 | u32::from(lane))
                })
                .collect()
        };
        self.a.chunks(k).flat_map(row_words).collect()
    }

    /// `[matrix][word][column]`, columns padded with zeros to a multiple of four.
    fn packed_b(&self) -> Vec<u32> {
        let (k, n) = (self.product.k, self.product.n);
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

    fn run(&self, device: &ptq4vit_gpu::device::Device) -> ptq4vit_gpu::device::Buffer<f32> {
        let out = device.upload(&vec![UNTOUCHED; self.len]);
        let scales = OutputScales {
            scales: &device.upload(&self.scales),
            shifts: &device.upload(&self.shifts),
            groups: self.groups,
            inner_groups: self.inner_groups,
            group_columns: self.group_columns,
        };
        let bias = self.bias.as_ref().map(|bias| device.upload(bias));
        let a = device.upload(&self.packed_a());
        let b = device.upload(&self.packed_b());
        integer_product(device, &self.product, &a, &b, &scales, bias.as_ref(), &out);
        out
    }

    fn name(&self) -> String {
        let IntegerProduct { m, n, k, jobs, .. } = self.product;
        format!("{:?} {m}x{k}x{n}, {jobs} jobs", self.product.a_format)
    }

    /// Every device gives the exact integer, rounded once to an f32, times its scale. Scales must be powers of two.
    fn check_exact(&self, everywhere: &Everywhere) {
        let mut expected = vec![UNTOUCHED; self.len];
        self.for_each_output(|at, scale, bias, integer| {
            assert_eq!(bias, 0.0);
            expected[at] = integer as f32 * scale;
        });
        everywhere.equal(&self.name(), &expected, |device| self.run(device));
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
        everywhere.close(&self.name(), &expected, |device| self.run(device));
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
    let cpu = ptq4vit_gpu::device::Device::cpu();
    for format in FORMATS {
        let mut case = Case::new([17, 4100, 9], [1, 1], 1, [false; 2], format);
        // Positive and large on the right: sums of R2 well above 2^24.
        for code in &mut case.b {
            *code = code.saturating_abs();
        }
        case.shifts = vec![11];
        let expected = cpu.read(&case.run(&cpu)).expect("the CPU's result");
        everywhere.equal(&case.name(), &expected, |device| case.run(device));
    }
}
