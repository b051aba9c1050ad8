//! Every format and width, tables, scales of heads and of blocks of rows, and more jobs than one invocation writes.

use super::{Quantize, quantize};
use crate::format::Scale;
use crate::kernels::catalogue::{
    Case, FORMATS, Group, Mistake, Random, TABLES, case, format_name, packed, place, third,
};
use crate::kernels::{Format, View};

/// Values that reach every branch of `format` in the groups of [`groups`]: beyond both ends, at ties, at zeros
/// of either sign, where a device may take an f32 for zero, and as far out as f32 goes.
pub(in crate::kernels) fn values(
    format: Format,
    bits: u32,
    len: usize,
    random: &mut Random,
) -> Vec<f32> {
    let q = (1u32 << (bits - 1)) as f32;
    let signed = format != Format::SoftmaxTwin;
    let mut values = match signed {
        true => random.bell(len, 0.0, 1.0),
        false => random.unit(len),
    };
    if !signed {
        // Probabilities: most are near zero.
        for value in &mut values {
            *value = *value * *value * *value * *value;
        }
    }
    for (at, value) in values.iter_mut().enumerate() {
        let tie = ((at % q as usize) as f32 + 0.5) / q;
        match at % 13 {
            0 => *value = 0.0,
            1 => *value = 1.0,
            2 if signed => *value *= 1000.0,
            3 if signed => *value = -0.0,
            // Ties at the scale 1 / q of group 0.
            4 => *value = tie,
            5 if signed => *value = -tie,
            6 => *value = 1e-40,
            7 if signed => *value = if at % 2 == 0 { -1e30 } else { 1e30 },
            _ => {}
        }
    }
    values
}

/// `[jobs][groups]` scales, or tables of levels to about 2; the first gives ties something to tie at.
pub(in crate::kernels) fn groups(what: &Quantize, random: &mut Random) -> Vec<Group> {
    let (format, bits) = (what.format, what.bits);
    let q = (1u32 << (bits - 1)) as f32;
    let units = random.unit(2 * what.jobs * what.groups);
    let pairs = units.as_chunks::<2>().0.iter().enumerate();
    let group = |(number, [one, two]): (usize, &[f32; 2])| {
        if TABLES.contains(&format) {
            let shift = match format {
                Format::Table => 0,
                _ => (4 + 7 * number as u32) % 12,
            };
            let (scale, offset) = match number {
                0 => (1.0 / 64.0, 0.0),
                _ => ((0.5 + one) / (64 << (shift / 2)) as f32, two - 0.5),
            };
            return Group::of_table(format, bits, Scale { scale, shift }, offset, random);
        }
        let inverses = match number {
            0 => [q, q],
            _ => [q / (0.3 * (0.5 + one)), q / (1.0 * (0.5 + two))],
        };
        Group::of_scales(format, bits, inverses)
    };
    pairs.map(group).collect()
}

/// The records of the encoders of groups.
pub(in crate::kernels) fn records(groups: &[Group]) -> Vec<u32> {
    groups.iter().flat_map(Group::record).collect()
}

struct Inputs {
    source: Vec<f32>,
    groups: Vec<Group>,
}

fn quantizer(name: &str, what: Quantize, len: usize) -> Case {
    let name = format!("{name}, {}, {} bits", format_name(what.format), what.bits);
    let case = case(
        name,
        move || {
            let mut random = Random::new(1000 * len as u64 + u64::from(what.bits));
            Inputs {
                source: values(what.format, what.bits, len, &mut random),
                groups: groups(&what, &mut random),
            }
        },
        move |commands, device, inputs: &Inputs| {
            let source = device.upload(&inputs.source);
            let encoders = device.upload(&records(&inputs.groups));
            quantize(commands, &what, &source, &encoders)
        },
    );
    case.exact(move |inputs| {
        let mut expected = Vec::new();
        for job in 0..what.jobs {
            for problem in 0..what.batch[0] * what.batch[1] {
                let matrix = [problem / what.batch[1], problem % what.batch[1]];
                expected.extend(packed([what.rows, what.k], |row, k| {
                    let group = matrix[1] * what.inner_groups + row / what.group_rows;
                    let group = &inputs.groups[job * what.groups + group];
                    group.code(inputs.source[place(&what.source, matrix, row, k)])
                }));
            }
        }
        expected
    })
}

/// Describes a mistake in the shader that the cases find.
pub(in crate::kernels) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "(quantize(x, encoder, p.q)",
    wrong: "(quantize(floor(x * encoder.head.x + 0.5) / encoder.head.x, encoder, p.q)",
});

pub(in crate::kernels) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let matrix = |rows, k, format, bits| Quantize {
        source: View::rows(k),
        batch: [1, 1],
        rows,
        k,
        jobs: 1,
        groups: 1,
        inner_groups: 0,
        group_rows: rows,
        bits,
        format,
    };
    for format in FORMATS.into_iter().chain(TABLES) {
        for (bits, rows, k) in [(8, 65, 197), (6, 7, 65), (4, 197, 7), (3, 3, 3), (2, 1, 1)] {
            let what = matrix(rows, k, format, bits);
            cases.push(quantizer(&format!("{rows}x{k}"), what, rows * k));
        }
        for (rows, group_rows, k) in [(9usize, 3, 13), (10, 4, 8), (65, 1, 3)] {
            let what = Quantize {
                jobs: 3,
                groups: rows.div_ceil(group_rows),
                group_rows,
                ..matrix(rows, k, format, 6)
            };
            let name = format!("{rows}x{k}, a scale for {group_rows} rows");
            cases.push(quantizer(&name, what, rows * k));
        }
    }
    // Queries are summed over dim, values over tokens: rows and columns exchanged.
    let (images, tokens, heads, dim) = (2, 7, 3, 5);
    let third = |which| third(which, [tokens, heads, dim]);
    for (part, source, rows, k) in [
        ("queries", third(0), tokens, dim),
        ("values", third(2).transposed(), dim, tokens),
    ] {
        for (scales, groups, inner_groups) in
            [("one scale", 1, 0), ("a scale for each head", heads, 1)]
        {
            for format in [Format::Uniform, Format::Table, Format::TwinTable] {
                let what = Quantize {
                    source,
                    batch: [images, heads],
                    jobs: 11,
                    groups,
                    inner_groups,
                    ..matrix(rows, k, format, 8)
                };
                let len = images * tokens * 3 * heads * dim;
                cases.push(quantizer(&format!("{part}, {scales}"), what, len));
            }
        }
    }
    cases
}
