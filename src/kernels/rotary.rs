//! Rotary positions: queries and keys of patches, turned by where the patches lie.

use super::WORKGROUP;
use super::catalogue::{Case, EPSILON, Mistake, Random, SMALLEST, case, wide};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "rotary",
    source: include_str!("../../shaders/rotary.wgsl"),
};

/// Describes the shape of queries, keys and values, `[images, tokens, 3, heads, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Rotary {
    /// Tokens of one image.
    pub tokens: usize,
    /// Tokens before the patches, which have no position.
    pub prefix: usize,
    /// Heads.
    pub heads: usize,
    /// Features of a head, an even number.
    pub head_dim: usize,
    /// Places between the two features of a pair: half of the head's, or 1 where they are neighbours.
    pub apart: usize,
}

/// Says which way pairs turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By their angles.
    Forward,
    /// By the opposite ones, which is the inverse and the gradient.
    Back,
}

impl Direction {
    fn sign(self) -> f32 {
        match self {
            Self::Forward => 1.0,
            Self::Back => -1.0,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
    tokens: u32,
    prefix: u32,
    heads: u32,
    head_dim: u32,
    apart: u32,
    direction: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    count,
    tokens,
    prefix,
    heads,
    head_dim,
    apart,
    direction
});

/// Turns the pairs (d, d + apart) of each head's queries and keys by the angles whose cosines and sines are
/// `turns` `[tokens - prefix, head_dim / 2, 2]`. Values and the tokens before the patches stay as they are.
pub fn rotary(
    commands: &mut Commands,
    shape: &Rotary,
    direction: Direction,
    qkv: &Buffer<f32>,
    turns: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(qkv.len());
    match commands.device() {
        Device::Cpu(_) => cpu(
            shape,
            direction.sign(),
            &qkv.host_slice(),
            &turns.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let parameters = Parameters {
                count: qkv.len() as u32,
                tokens: shape.tokens as u32,
                prefix: shape.prefix as u32,
                heads: shape.heads as u32,
                head_dim: shape.head_dim as u32,
                apart: shape.apart as u32,
                direction: direction.sign(),
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(qkv), Binding::F32(turns), Binding::F32(&out)],
                qkv.len().div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(shape: &Rotary, sign: f32, qkv: &[f32], turns: &[f32], out: &mut [f32]) {
    let Rotary {
        tokens,
        prefix,
        heads,
        head_dim,
        apart,
    } = *shape;
    let dim = heads * head_dim;
    out.par_chunks_mut(3 * dim)
        .zip(qkv.par_chunks(3 * dim))
        .enumerate()
        .for_each(|(row, (out, qkv))| {
            out.copy_from_slice(qkv);
            let Some(patch) = (row % tokens).checked_sub(prefix) else {
                return;
            };
            let turns = &turns[patch * head_dim..][..head_dim];
            for (out, qkv) in out[..2 * dim]
                .chunks_exact_mut(head_dim)
                .zip(qkv.chunks_exact(head_dim))
            {
                for (pair, turn) in turns.chunks_exact(2).enumerate() {
                    let (cos, sin) = (turn[0], turn[1] * sign);
                    let first = pair / apart * (2 * apart) + pair % apart;
                    let (a, b) = (qkv[first], qkv[first + apart]);
                    out[first] = a * cos - b * sin;
                    out[first + apart] = b * cos + a * sin;
                }
            }
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "feature / p.apart % 2u == 0u",
    wrong: "feature < p.apart",
});

/// Lists cases both ways, with tokens before the patches and without, of pairs that are halves of a head apart and of
/// neighbours.
pub(super) fn cases() -> Vec<Case> {
    let sizes = [(1, 1, 0, 1, 4), (2, 9, 5, 3, 8), (3, 66, 1, 2, 20)];
    let sizes = sizes
        .into_iter()
        .flat_map(|sizes @ (.., head_dim)| [head_dim / 2, 1].map(|apart| (sizes, apart)));
    let cases = sizes.flat_map(|(sizes, apart)| {
        [Direction::Forward, Direction::Back].map(|direction| case_of(sizes, apart, direction))
    });
    cases.collect()
}

/// Computes what a complex number of each pair becomes when it is multiplied by that of its turn: two products and a sum.
fn case_of(
    (images, tokens, prefix, heads, head_dim): (usize, usize, usize, usize, usize),
    apart: usize,
    direction: Direction,
) -> Case {
    let shape = Rotary {
        tokens,
        prefix,
        heads,
        head_dim,
        apart,
    };
    let (patches, half) = (tokens - prefix, head_dim / 2);
    let of_neighbours = if apart == 1 { " neighbours" } else { "" };
    let described = case(
        format!("{images}x({prefix}+{patches})x{heads}x{head_dim}{of_neighbours} {direction:?}")
            .to_lowercase(),
        move || {
            let mut random = Random::new(head_dim as u64);
            let qkv = random.bell(images * tokens * 3 * heads * head_dim, 0.0, 1.0);
            [qkv, random.bell(patches * head_dim, 0.0, 1.0)]
        },
        move |commands, device, [qkv, turns]| {
            let (qkv, turns) = (device.upload(qkv), device.upload(turns));
            rotary(commands, &shape, direction, &qkv, &turns)
        },
    );
    described.close(move |[qkv, turns]| {
        let (qkv, turns) = (wide(qkv), wide(turns));
        let of = |at: usize| {
            let (feature, part) = (at % head_dim, at / head_dim / heads % 3);
            let token = at / head_dim / heads / 3 % tokens;
            if part == 2 || token < prefix {
                return (qkv[at], SMALLEST);
            }
            let (pair, is_first) = match apart {
                1 => (feature / 2, feature % 2 == 0),
                _ => (feature % half, feature < half),
            };
            let turn = ((token - prefix) * half + pair) * 2;
            let (cos, sin) = (turns[turn], turns[turn + 1]);
            let sin = match (direction, is_first) {
                (Direction::Forward, true) | (Direction::Back, false) => -sin,
                _ => sin,
            };
            let partner = if is_first { at + apart } else { at - apart };
            let (own, other) = (qkv[at] * cos, qkv[partner] * sin);
            let bound = 2.0 * EPSILON * (own.abs() + other.abs()) + SMALLEST;
            (own + other, bound)
        };
        (0..qkv.len()).map(of).collect()
    })
}
