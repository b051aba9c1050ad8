//! A ceiling that `bench` measures: memory that is read and written.

use super::catalogue::{Case, Mistake, Random, case};
use super::{PER_TASK, VECTOR, WORKGROUP};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "peak_copy",
    source: include_str!("../../shaders/peak_copy.wgsl"),
};

/// Counts the vectors that one invocation copies, as in the shader.
const STRIP: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    count: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { count });

/// Copies `input` to `out`; both have one length, a multiple of four.
pub fn peak_copy(commands: &mut Commands, input: &Buffer<u32>, out: &Buffer<u32>) {
    assert_eq!(input.len(), out.len(), "a copy has its original's length");
    assert!(input.len().is_multiple_of(VECTOR), "copies go in vectors");
    match commands.device() {
        Device::Cpu(_) => cpu(&input.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let vectors = input.len() / VECTOR;
            let parameters = Parameters {
                count: vectors as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::U32(input), Binding::U32(out)],
                vectors.div_ceil(STRIP * WORKGROUP),
            );
        }
    }
}

fn cpu(input: &[u32], out: &mut [u32]) {
    out.par_chunks_mut(PER_TASK)
        .zip(input.par_chunks(PER_TASK))
        .for_each(|(out, input)| out.copy_from_slice(input));
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "= input[at];",
    wrong: "= input[at].xyzz;",
});

/// Lists cases of one vector, of no whole strip, and of more strips than one.
pub(super) fn cases() -> Vec<Case> {
    let cases = [1, 65, 1024, 2500].map(|vectors: usize| {
        case(
            format!("{vectors} vectors"),
            move || {
                let bytes = Random::new(vectors as u64).bytes(16 * vectors);
                let words = bytes.as_chunks().0.iter();
                words
                    .map(|word| u32::from_le_bytes(*word))
                    .collect::<Vec<_>>()
            },
            |commands, device, words| {
                let out = device.zeros(words.len());
                peak_copy(commands, &device.upload(words), &out);
                out
            },
        )
        .exact(Vec::clone)
    });
    cases.into()
}
