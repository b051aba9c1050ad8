//! Heads of ragged sizes, plain and within windows, in every format that p has, in tiles of few and of many queries.

use super::{
    CodedAttention, Destination, Encoding, WindowTerms, fused_attention, separate_attention,
};
use crate::device::{Buffer, Commands, Device};
use crate::format::Scale;
use crate::kernels::catalogue::codes::worth;
use crate::kernels::catalogue::{
    Case, CodeRange, EPSILON, Group, Mistake, Random, TABLES, UNTOUCHED, Unpadded, case,
    format_name, packed,
};
use crate::kernels::softmax::cases::exact;
use crate::kernels::{Format, View};

/// Sets what a scale of R2 of p and of q is worth in scales of R1.
const SHIFT: u32 = 4;
/// Sets the scale of p's R1: R2 of a twin reaches 1, and a uniform format's codes clip what is larger.
const P_SCALE: f32 = 1.0 / 2048.0;
/// Sets what a unit of the values' integers is worth, in the first head; the next ones' is larger.
const VALUE_UNIT: f32 = 1.0 / 60000.0;
const FACTOR: f32 = 0.125;

/// Describes one attention, and how it is computed.
#[derive(Clone, Copy)]
struct Shape {
    batch: [usize; 2],
    tokens: usize,
    head_dim: usize,
    q_format: Format,
    p_format: Format,
    /// Masks of windows, or 0 without windows.
    masks: usize,
    /// Whether codes come out.
    codes: bool,
    queries: usize,
}

/// Holds codes, and what is added within windows.
struct Inputs {
    /// `[matrix][token][feature]`
    q: Vec<u8>,
    k: Vec<u8>,
    v: Vec<u8>,
    bias: Vec<f32>,
    mask: Vec<f32>,
}

impl Shape {
    fn name(&self) -> String {
        let [outer, heads] = self.batch;
        let Self {
            tokens,
            head_dim,
            queries,
            ..
        } = self;
        let windows = match self.masks {
            0 => String::new(),
            masks => format!(", {masks} masks"),
        };
        let result = if self.codes { "codes" } else { "values" };
        format!(
            "{outer}x{heads} heads, {tokens} tokens of {head_dim}{windows}, q {}, p {}, to {result}, by {queries}",
            format_name(self.q_format),
            format_name(self.p_format),
        )
    }

    fn matrices(&self) -> usize {
        self.batch[0] * self.batch[1]
    }

    fn inputs(&self) -> Inputs {
        let mut random = Random::new((self.tokens * self.head_dim) as u64);
        let mut operand = || random.bytes(self.matrices() * self.tokens * self.head_dim);
        let (q, k, v) = (operand(), operand(), operand());
        let square = self.tokens * self.tokens;
        // They hide most of a row but never all of it.
        let mask = (0..self.masks * square).map(|at| {
            let shown = at * 7 % 5 == 0 || at / self.tokens % self.tokens == at % self.tokens;
            if shown { 0.0 } else { -100.0 }
        });
        let heads = if self.masks > 0 { self.batch[1] } else { 0 };
        Inputs {
            q,
            k,
            v,
            bias: random.bell(heads * square, 0.0, 2.0),
            mask: mask.collect(),
        }
    }

    /// What a unit of scores is worth in a head: their deviation becomes a few units after the factor.
    fn score_unit(&self, head: usize) -> Scale {
        let deviation = (self.head_dim as f32).sqrt() * 74.0 * 74.0;
        Scale {
            scale: (16.0 + 8.0 * head as f32) / deviation,
            shift: if self.q_format.is_twin() { SHIFT } else { 0 },
        }
    }

    fn value_unit(&self, head: usize) -> Scale {
        Scale {
            scale: VALUE_UNIT * (1.0 + head as f32),
            shift: if self.p_format.is_twin() { SHIFT } else { 0 },
        }
    }

    /// What probabilities of a head become codes by: a twin's encoder is one for all.
    fn p_group(&self, head: usize) -> Group {
        let head = if self.p_format == Format::SoftmaxTwin {
            0
        } else {
            head
        };
        self.group(self.p_format, P_SCALE * (1.0 + head as f32), head)
    }

    fn p_groups(&self) -> usize {
        match self.p_format {
            Format::SoftmaxTwin => 1,
            _ => self.batch[1],
        }
    }

    /// What the values become codes by.
    fn next_group(&self) -> Group {
        self.group(Format::Uniform, 1.0 / 64.0, 0)
    }

    fn group(&self, format: Format, scale: f32, number: usize) -> Group {
        if TABLES.contains(&format) {
            let scale = Scale {
                scale,
                shift: SHIFT,
            };
            return Group::of_table(format, 8, scale, 0.0, &mut Random::new(number as u64));
        }
        let ratio = (1u32 << SHIFT) as f32;
        Group::of_scales(format, 8, [1.0 / scale, 1.0 / (scale * ratio)])
    }

    fn rows(&self) -> usize {
        self.batch[0] * self.tokens
    }

    /// Runs the one kernel, or all of them.
    fn run(
        &self,
        commands: &mut Commands,
        device: &Device,
        inputs: &Inputs,
        by: impl Fn(&mut Commands, &CodedAttention, Destination),
    ) -> crate::kernels::catalogue::Outcome {
        let [outer, heads] = self.batch;
        let (tokens, head_dim) = (self.tokens, self.head_dim);
        let matrices = |codes: &[u8], transposed: bool| {
            let matrices = codes.chunks(tokens * head_dim).flat_map(|matrix| {
                if transposed {
                    packed([head_dim, tokens], |row, k| matrix[k * head_dim + row])
                } else {
                    packed([tokens, head_dim], |row, k| matrix[row * head_dim + k])
                }
            });
            device.upload(&matrices.collect::<Vec<u32>>())
        };
        let (q, k) = (matrices(&inputs.q, false), matrices(&inputs.k, false));
        let v = matrices(&inputs.v, true);
        let [bias, mask]: [Buffer<f32>; 2] =
            [&inputs.bias, &inputs.mask].map(|terms| device.upload(terms));
        let records =
            |groups: &[Group]| -> Vec<u32> { groups.iter().flat_map(Group::record).collect() };
        let p_groups: Vec<Group> = (0..self.p_groups())
            .map(|head| self.p_group(head))
            .collect();
        let (p_encoders, next_encoder) = (records(&p_groups), records(&[self.next_group()]));
        let units = |unit: &dyn Fn(usize) -> Scale| (0..heads).map(unit).collect::<Vec<_>>();
        let score_units = units(&|head| self.score_unit(head));
        let value_units = units(&|head| self.value_unit(head));
        let padded = self.rows().next_multiple_of(4);
        let words = head_dim.div_ceil(4);
        let what = CodedAttention {
            batch: self.batch,
            tokens,
            head_dim,
            q: &q,
            q_format: self.q_format,
            k: &k,
            v: &v,
            score_units: &score_units,
            factor: FACTOR,
            windows: (self.masks > 0).then_some(WindowTerms {
                bias: &bias,
                mask: &mask,
                masks: self.masks,
            }),
            p: Encoding {
                format: self.p_format,
                bits: 8,
                encoders: &p_encoders,
            },
            value_units: &value_units,
            out: if self.codes {
                View::new(0, [tokens, words * padded], 1, padded)
            } else {
                let dim = heads * head_dim;
                View::new(0, [tokens * dim, head_dim], dim, 1)
            },
        };
        if self.codes {
            let out = device.zeros(heads * words * padded);
            let next = Encoding {
                format: Format::Uniform,
                bits: 8,
                encoders: &next_encoder,
            };
            by(commands, &what, Destination::Codes(next, &out));
            Unpadded {
                codes: out,
                rows: self.rows(),
            }
            .into()
        } else {
            let out = device.upload(&vec![UNTOUCHED; outer * tokens * heads * head_dim]);
            by(commands, &what, Destination::Values(&out));
            out.into()
        }
    }

    /// Computes `[row][head][column]`: values, and bounds on their errors. The integers of the scores are exact unless a
    /// twin's exceed 2^24, where they are rounded once; so is their product with the unit, and each sum with bias and mask. What
    /// probabilities may be bounds their codes, and these bound the values; which are rounded as scores are.
    fn exact(&self, inputs: &Inputs) -> Vec<(f64, f64)> {
        let [_, heads] = self.batch;
        let (tokens, head_dim) = (self.tokens, self.head_dim);
        let ratio = f64::from(1u32 << SHIFT);
        let mut values = vec![(0.0, 0.0); self.rows() * heads * head_dim];
        for matrix in 0..self.matrices() {
            let (outer, head) = (matrix / heads, matrix % heads);
            let at = matrix * tokens * head_dim;
            let of = |codes: &[u8], format: Format| -> Vec<f64> {
                let codes = codes[at..][..tokens * head_dim].iter();
                codes.map(|&code| worth(format, ratio, code)).collect()
            };
            let q = of(&inputs.q, self.q_format);
            let (k, v) = (
                of(&inputs.k, Format::Uniform),
                of(&inputs.v, Format::Uniform),
            );
            let group = self.p_group(head);
            let (score_unit, value_unit) = (self.score_unit(head), self.value_unit(head));
            for (query, q) in q.chunks(head_dim).enumerate() {
                let terms = k.chunks(head_dim).enumerate().map(|(key, k)| {
                    let integer: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                    let score = f64::from(FACTOR) * f64::from(score_unit.scale) * integer;
                    if self.masks == 0 {
                        return (score, score.abs());
                    }
                    let bias = inputs.bias[(head * tokens + query) * tokens + key];
                    let mask = outer % self.masks * tokens + query;
                    let mask = inputs.mask[mask * tokens + key];
                    let parts = [score, bias.into(), mask.into()];
                    let magnitude: f64 = parts.iter().map(|part| part.abs()).sum();
                    (parts.iter().sum(), score.abs() + 1.5 * magnitude)
                });
                let (exponents, errors): (Vec<f64>, Vec<f64>) = terms.unzip();
                let codes: Vec<[f64; 2]> = exact(&exponents, &errors)
                    .into_iter()
                    .map(|(p, bound)| {
                        let end = |sign: f64| p + sign * (bound + EPSILON * p);
                        [-1.0, 1.0]
                            .map(|sign| worth(self.p_format, ratio, group.code_near(end(sign))))
                    })
                    .collect();
                for column in 0..head_dim {
                    let (mut low, mut high) = (0.0, 0.0);
                    for (key, &[least, most]) in codes.iter().enumerate() {
                        let v = v[key * head_dim + column];
                        low += (least * v).min(most * v);
                        high += (least * v).max(most * v);
                    }
                    let unit = f64::from(value_unit.scale);
                    let value = unit * (low + high) / 2.0;
                    let bound = unit * (high - low) / 2.0 + 1.5 * EPSILON * value.abs();
                    let row = outer * tokens + query;
                    values[(row * heads + head) * head_dim + column] = (value, bound);
                }
            }
        }
        values
    }

    /// Bounds the codes of the values.
    fn range(&self, inputs: &Inputs) -> CodeRange {
        let dim = self.batch[1] * self.head_dim;
        let (exact, group) = (self.exact(inputs), self.next_group());
        let end = |sign: f64| {
            packed([self.rows(), dim], |row, column| {
                let (value, bound) = exact[row * dim + column];
                group.code_near(value + sign * (bound + EPSILON * value.abs()))
            })
        };
        CodeRange {
            format: Format::Uniform,
            ratio: 1.0,
            low: end(-1.0),
            high: end(1.0),
        }
    }

    fn case(self) -> Case {
        let draft = case(
            self.name(),
            move || self.inputs(),
            move |commands, device, inputs| {
                self.run(commands, device, inputs, |commands, what, to| {
                    fused_attention(commands, what, self.queries, to);
                })
            },
        );
        let draft = draft.unfused(move |commands, device, inputs| {
            self.run(commands, device, inputs, separate_attention)
        });
        if self.codes {
            draft.codes(move |inputs| self.range(inputs))
        } else {
            draft.close(move |inputs| self.exact(inputs))
        }
    }
}

/// Describes a mistake in the shader that the cases find.
pub(in crate::kernels) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "sum += exponential;",
    wrong: "sum += exponential * 1.01;",
});

pub(in crate::kernels) fn cases() -> Vec<Case> {
    use Format::{SoftmaxTwin, Table, TwinTable, Uniform};
    let shape = Shape {
        batch: [2, 3],
        tokens: 50,
        head_dim: 32,
        q_format: Uniform,
        p_format: SoftmaxTwin,
        masks: 0,
        codes: false,
        queries: 16,
    };
    let ragged = [(1, 64), (3, 80), (49, 32), (197, 64)]
        .into_iter()
        .zip([false, true].into_iter().cycle());
    let mut shapes: Vec<Shape> = ragged
        .map(|((tokens, head_dim), codes)| Shape {
            tokens,
            head_dim,
            codes,
            ..shape
        })
        .collect();
    // Longer rows, in tiles that are made smaller; the longest that there can be.
    shapes.extend([577, 960].map(|tokens| Shape {
        batch: [1, 1],
        tokens,
        ..shape
    }));
    // A head whose features fill no word, so that only values can come out.
    shapes.push(Shape {
        head_dim: 11,
        ..shape
    });
    shapes.extend([Uniform, Table, TwinTable].map(|p_format| Shape {
        p_format,
        codes: true,
        ..shape
    }));
    shapes.push(Shape {
        q_format: TwinTable,
        ..shape
    });
    shapes.extend([4, 32].map(|queries| Shape { queries, ..shape }));
    let windows = [([1, 1], 1, 1), ([6, 2], 3, 7), ([4, 3], 2, 49)];
    shapes.extend(windows.map(|(batch, masks, tokens)| Shape {
        batch,
        masks,
        tokens,
        codes: true,
        ..shape
    }));
    shapes.push(Shape {
        masks: 1,
        p_format: Table,
        ..shape
    });
    let cases = shapes.into_iter().map(Shape::case);
    cases.flat_map(Case::by_row_division).collect()
}
