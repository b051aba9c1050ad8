//! Ragged rows that follow one another or don't, class and distillation tokens among the others, and tokens that are
//! put in another order as they become codes.

use super::{LayerNorm, layer_norm, layer_norm_codes};
use crate::device::{Buffer, Device};
use crate::kernels::catalogue::{
    Case, CodedRows, EPSILON, Mistake, ROWS, Random, SMALLEST, case, reordered, token_order, wide,
};
use crate::kernels::{Format, TokenOrder, permute_tokens};

const EPS: f32 = 1e-6;

/// Rows to normalise.
pub(in crate::kernels) struct Rows {
    pub input: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Rows {
    /// Makes rows far from zero, of tiny values (where eps counts), constant ones, huge and ordinary ones.
    pub fn new(norm: &LayerNorm) -> Self {
        let mut random = Random::new((norm.rows * norm.input_stride) as u64);
        let input = (0..norm.rows).flat_map(|row| {
            let (mean, deviation) = match row % 7 {
                3 => (10.0, 1.0),
                4 => (0.0, 1e-3),
                5 => (3.0, 0.0),
                6 => (0.0, 1e15),
                _ => (0.1, 2.0),
            };
            random.bell(norm.input_stride, mean, deviation)
        });
        let input = input.collect();
        let mut random = Random::new(1);
        Self {
            input,
            weight: random.bell(norm.width, 1.0, 0.5),
            bias: random.bell(norm.width, 0.0, 0.5),
        }
    }

    fn upload(&self, device: &Device) -> [Buffer<f32>; 3] {
        [&self.input, &self.weight, &self.bias].map(|data| device.upload(data))
    }

    fn exact(&self, norm: &LayerNorm) -> Vec<(f64, f64)> {
        let rows = (0..norm.rows).flat_map(|row| {
            let start = norm.input_offset + row * norm.input_stride;
            let row = Normalised::new(&wide(&self.input[start..][..norm.width]));
            let elements = (0..norm.width).map(|at| {
                let (weight, bias) = (f64::from(self.weight[at]), f64::from(self.bias[at]));
                let scaled = row.elements[at] * weight;
                let of_element = weight.abs() * row.error(row.elements[at]);
                let of_steps = EPSILON * (scaled.abs() + bias.abs());
                (scaled + bias, of_element + of_steps + SMALLEST)
            });
            elements.collect::<Vec<_>>()
        });
        rows.collect()
    }
}

/// A normalised row.
pub(in crate::kernels) struct Normalised {
    /// Mean magnitude and mean of what was normalised.
    magnitude: f64,
    mean: f64,
    pub deviation: f64,
    pub elements: Vec<f64>,
}

impl Normalised {
    pub fn new(x: &[f64]) -> Self {
        let width = x.len() as f64;
        let mean = x.iter().sum::<f64>() / width;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width;
        let deviation = (variance + f64::from(EPS)).sqrt();
        Self {
            magnitude: x.iter().map(|x| x.abs()).sum::<f64>() / width,
            mean,
            deviation,
            elements: x.iter().map(|x| (x - mean) / deviation).collect(),
        }
    }

    /// Bounds the error of one normalised element. A sum of so many terms errs by at most as many half-epsilons of
    /// their magnitudes, and the mean's error counts in units of the deviation; the variance's error, that of the
    /// inverse root (2 epsilons in WGSL) and of the steps after it are in proportion to the element.
    pub fn error(&self, element: f64) -> f64 {
        let width = self.elements.len() as f64;
        let of_mean = ((width + 3.0) / 2.0 * self.magnitude + self.mean.abs()) / self.deviation;
        EPSILON * (of_mean * (1.0 + element.abs()) + (width / 4.0 + 6.0) * element.abs())
    }
}

fn one_after_another(rows: usize, width: usize) -> LayerNorm {
    LayerNorm {
        rows,
        width,
        input_offset: 0,
        input_stride: width,
        eps: EPS,
    }
}

/// Shapes of the cases, with their names.
pub(in crate::kernels) fn shapes() -> Vec<(String, LayerNorm)> {
    let mut norms = Vec::new();
    for [rows, width] in ROWS {
        let norm = one_after_another(rows, width);
        norms.push((format!("{rows}x{width}"), norm));
        norms.push(apart(norm, 7, width + 13));
    }
    // The class and distillation tokens of five images of seven tokens.
    for offset in [0, 768] {
        norms.push(apart(one_after_another(5, 768), offset, 7 * 768));
    }
    norms
}

fn apart(norm: LayerNorm, offset: usize, stride: usize) -> (String, LayerNorm) {
    let LayerNorm { rows, width, .. } = norm;
    let norm = LayerNorm {
        input_offset: offset,
        input_stride: stride,
        ..norm
    };
    (format!("{rows}x{width} every {stride} from {offset}"), norm)
}

/// Scales of normalised values, which the largest exceed.
const SCALES: [f32; 3] = [0.02, 0.05, 0.03];

/// Describes a mistake in the shader that the cases find.
pub(in crate::kernels) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "quantize(values, encoder,",
    wrong: "quantize(values - 0.5 / encoder.head.x, encoder,",
});

pub(in crate::kernels) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, norm) in shapes() {
        let coded = CodedRows {
            rows: norm.rows,
            width: norm.width,
            matrix_rows: norm.rows,
            format: Format::Uniform,
            bits: 8,
            scales: &SCALES[..1],
            shift: 0,
        };
        cases.push(coded.case(
            &name,
            move || Rows::new(&norm),
            move |commands, device, rows| {
                let [input, weight, bias] = rows.upload(device);
                layer_norm(commands, &norm, &input, &weight, &bias)
            },
            move |commands, device, rows, codes| {
                let [input, weight, bias] = rows.upload(device);
                layer_norm_codes(commands, &norm, None, &input, &weight, &bias, codes)
            },
            move |rows| rows.exact(&norm),
        ));
        let floats = case(
            name,
            move || Rows::new(&norm),
            move |commands, device, rows| {
                let [input, weight, bias] = rows.upload(device);
                layer_norm(commands, &norm, &input, &weight, &bias)
            },
        );
        cases.push(floats.close(move |rows| rows.exact(&norm)));
    }
    for shape in [[1, 1, 1], [3, 7, 65], [2, 49, 96]] {
        for (format, bits) in [
            (Format::Uniform, 8),
            (Format::GeluTwin, 4),
            (Format::Table, 6),
            (Format::TwinTable, 4),
        ] {
            cases.extend([false, true].map(|padded| in_order(shape, padded, format, bits)));
        }
    }
    cases.into_iter().flat_map(Case::by_row_division).collect()
}

fn in_order([images, tokens, width]: [usize; 3], padded: bool, format: Format, bits: u32) -> Case {
    let norm = one_after_another(images * tokens, width);
    let matrix_rows = token_order(tokens, padded).len();
    let coded = CodedRows {
        rows: images * matrix_rows,
        width,
        matrix_rows,
        format,
        bits,
        scales: &SCALES,
        shift: 1,
    };
    let with_padding = if padded { ", padded" } else { "" };
    coded.case(
        &format!("{images}x{tokens}x{width} in another order{with_padding}"),
        move || (Rows::new(&norm), token_order(tokens, padded)),
        move |commands, device, (rows, from)| {
            let [input, weight, bias] = rows.upload(device);
            let normalised = layer_norm(commands, &norm, &input, &weight, &bias);
            let from = &device.upload(from);
            permute_tokens(commands, width, TokenOrder { from, tokens }, &normalised)
        },
        move |commands, device, (rows, from), codes| {
            let [input, weight, bias] = rows.upload(device);
            let from = &device.upload(from);
            let order = Some(TokenOrder { from, tokens });
            layer_norm_codes(commands, &norm, order, &input, &weight, &bias, codes)
        },
        move |(rows, from)| reordered(from, tokens, width, &rows.exact(&norm)),
    )
}
