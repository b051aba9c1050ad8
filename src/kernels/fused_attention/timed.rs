//! Attention from codes of q, k and v on, to codes: by separate kernels and by one.

use super::{CodedAttention, Destination, Encoding, WindowTerms, attention, attention_by};
use crate::device::{Buffer, Device, Strategy};
use crate::format::{Format, Scale};
use crate::kernels::catalogue::{
    Amount, BITS, Exercise, Launch, NetworkProduct, Random, Role, Timed, Variant, encoders,
    scale_to,
};
use crate::kernels::integer_product::words_of_rows;
use crate::kernels::quantize::padded;
use crate::kernels::{Product, View};

/// Lists the ways to compute attention that are timed.
const STRATEGIES: [Strategy; 5] = [
    Strategy::Separate,
    Strategy::Fused { queries: 4 },
    Strategy::Fused { queries: 8 },
    Strategy::Fused { queries: 16 },
    Strategy::Fused { queries: 32 },
];

/// Describes how the kernel is timed.
pub(in crate::kernels) const TIMED: Timed = Timed {
    about: "Attention from codes of q, k and v on, to codes: by separate kernels and by one",
    exercises,
};

/// Holds the sizes of attention.
#[derive(Clone, Copy)]
struct Sizes {
    batch: [usize; 2],
    tokens: usize,
    head_dim: usize,
    windows: Option<usize>,
}

impl Sizes {
    /// Takes M heads of N tokens with K features each from sides that were named.
    fn of(at: &NetworkProduct) -> Option<Self> {
        let Product { batch, m, n, k, .. } = at.product;
        match at.role {
            Role::Alone => Some(Self {
                batch: [1, m],
                tokens: n,
                head_dim: k,
                windows: None,
            }),
            Role::Context {
                windows,
                is_pooling: false,
            } => Some(Self {
                batch,
                tokens: k,
                head_dim: n,
                windows,
            }),
            _ => None,
        }
    }
}

fn exercises(at: &NetworkProduct) -> Vec<Exercise> {
    let Some(sizes) = Sizes::of(at) else {
        return Vec::new();
    };
    let Sizes {
        batch,
        tokens,
        head_dim,
        ..
    } = sizes;
    let matrices = batch[0] * batch[1];
    let scores = matrices * tokens * tokens;
    // q kᵀ has as many as p v.
    let multiply_adds = 2 * scores * head_dim;
    let variant = Variant {
        format: Some(Format::SoftmaxTwin),
        ..Variant::default()
    };
    let exercise = Exercise::new(
        variant,
        vec![matrices, tokens, head_dim],
        Amount::Dots(multiply_adds as u64),
        scores.max(3 * matrices * tokens * head_dim),
        move |device, strategy| prepare(device, sizes, strategy).into(),
    );
    vec![exercise.by(&STRATEGIES)]
}

/// Makes attention of random codes whose scores have a deviation of 1.
fn prepare(device: &Device, sizes: Sizes, strategy: Option<Strategy>) -> Launch {
    let Sizes {
        batch,
        tokens,
        head_dim,
        windows,
    } = sizes;
    let heads = batch[1];
    let mut random = Random::new(3);
    let mut codes = |rows: usize, k: usize| -> Buffer<u32> {
        let bytes = batch[0] * heads * padded(rows) * k.next_multiple_of(4);
        device.upload(&random.words(bytes / 4))
    };
    let (q, k, v) = (
        codes(tokens, head_dim),
        codes(tokens, head_dim),
        codes(head_dim, tokens),
    );
    let terms = windows.map(|masks| {
        let [bias, mask] = [heads, masks].map(|matrices| device.zeros(matrices * tokens * tokens));
        (bias, mask, masks)
    });
    // A byte's deviation is 74.
    let deviation = (head_dim as f32).sqrt() * 74.0 * 74.0;
    let [p_format, next_format] = [Format::SoftmaxTwin, Format::Uniform];
    let p_encoder = encoders(p_format, 1.0, 1);
    let next_encoder = encoders(next_format, 8.0, 1);
    let dim = heads * head_dim;
    let row_by_row = View::new(0, [tokens * dim, head_dim], dim, 1);
    let words = words_of_rows(batch, [tokens, head_dim]);
    let out = words.map_or(row_by_row, |(out, _)| out);
    let next_codes = device.zeros(words.map_or(1, |(_, len)| len));
    let values = device.zeros(batch[0] * tokens * dim);
    let score_units = vec![Scale::uniform(1.0 / deviation); heads];
    let value_units = vec![scale_to(1.0, p_format); heads];
    Box::new(move |commands| {
        let what = CodedAttention {
            batch,
            tokens,
            head_dim,
            q: &q,
            q_format: Format::Uniform,
            k: &k,
            v: &v,
            score_units: &score_units,
            factor: 1.0,
            windows: terms.as_ref().map(|(bias, mask, masks)| WindowTerms {
                bias,
                mask,
                masks: *masks,
            }),
            p: Encoding {
                format: p_format,
                bits: BITS,
                encoders: &p_encoder,
            },
            value_units: &value_units,
            out,
        };
        let next = Encoding {
            format: next_format,
            bits: BITS,
            encoders: &next_encoder,
        };
        // Where codes of two heads would share a word, the network keeps the values.
        let to = match words {
            Some(_) => Destination::Codes(next, &next_codes),
            None => Destination::Values(&values),
        };
        match strategy {
            Some(strategy) => attention_by(commands, strategy, &what, to),
            None => attention(commands, &what, to),
        }
    })
}
