//! Floats to packed 8-bit codes, on the fly, in any format.

pub(super) mod cases;
mod timed;
pub(super) use cases::{MISTAKE, cases};
pub(super) use timed::TIMED;

use super::geometry::View;
use super::row_sums::SIDE_BY_SIDE;
use super::word_order::{stretches, write_rows};
use super::{PER_TASK, WORKGROUP};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use crate::format::{Encoder, Format, by_format, formats_wgsl, half_range};
use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "quantize",
    source: concat!(
        include_str!("../../shaders/shared/view.wgsl"),
        formats_wgsl!(),
        include_str!("../../shaders/quantize.wgsl"),
    ),
};

/// Counts the words whose values one invocation reads, as in the shader.
const STRIP: usize = 8;
/// Counts the jobs that one invocation writes those words for, as in the shader.
const JOBS: usize = 8;

/// Says what to quantize: a batch of matrices `[rows, k]`, each under the scales of several jobs (candidates).
#[derive(Clone, Copy, Debug)]
pub struct Quantize {
    /// Where the values lie; `row` and `column` are the strides of the rows and of `k`.
    pub source: View,
    /// Outer (images) and inner (heads) batch size.
    pub batch: [usize; 2],
    /// Rows of each matrix.
    pub rows: usize,
    /// The length that a product sums over.
    pub k: usize,
    /// Sets of encoders.
    pub jobs: usize,
    /// Groups of one job, which have an encoder each. A value's group is `inner · inner_groups + row / group_rows`.
    pub groups: usize,
    /// Groups from one inner batch entry to the next: 1 for per-head scales, else 0.
    pub inner_groups: usize,
    /// Rows of a group.
    pub group_rows: usize,
    /// Bit width, 2 to 8.
    pub bits: u32,
    /// The format of the codes.
    pub format: Format,
}

impl Quantize {
    /// Counts the words that four codes along `k` are packed into, per row.
    pub fn words(&self) -> usize {
        self.k.div_ceil(4)
    }

    fn matrix_words(&self) -> usize {
        self.words() * padded(self.rows)
    }

    /// Returns the records of a matrix's groups under one job, and those behind them.
    fn records<'a>(&self, encoders: &'a [u32], job: usize, [_, inner]: [usize; 2]) -> &'a [u32] {
        let first_group = job * self.groups + inner * self.inner_groups;
        &encoders[first_group * self.format.encoder_words()..]
    }

    /// Returns a matrix's outer and inner index.
    fn matrix(&self, problem: usize) -> [usize; 2] {
        [problem / self.batch[1], problem % self.batch[1]]
    }

    /// Counts the values that become codes.
    fn values(&self) -> usize {
        self.batch[0] * self.batch[1] * self.rows * self.k
    }

    /// Counts the words of the whole result.
    pub fn len(&self) -> usize {
        self.jobs * self.batch[0] * self.batch[1] * self.matrix_words()
    }

    /// Says whether there is nothing to quantize.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Counts the rows of an operand with padding, so that four neighbouring ones can be read as a vector.
pub(super) fn padded(rows: usize) -> usize {
    rows.next_multiple_of(4)
}

/// Says how the rows that a kernel computes become codes at once: as [`quantize`] makes them of that kernel's floats,
/// but the rows which pad a matrix are left as they are.
#[derive(Clone, Copy)]
pub struct RowCodes<'a> {
    /// The format of the codes.
    pub format: Format,
    /// Bit width, 2 to 8.
    pub bits: u32,
    /// The records of the groups' [encoders](Format::encoders).
    pub encoders: &'a Buffer<u32>,
    /// Consecutive rows that make a matrix.
    pub matrix_rows: usize,
    /// Groups that take turns: that of a matrix is number `matrix % groups`.
    pub groups: usize,
}

impl RowCodes<'_> {
    /// Counts the words of the codes of `rows` rows of `width` values.
    pub(super) fn len(&self, rows: usize, width: usize) -> usize {
        rows / self.matrix_rows * width.div_ceil(4) * padded(self.matrix_rows)
    }

    /// Returns the override constants of a shader that computes floats unless it is given these.
    pub(super) fn constants(&self) -> [(&'static str, f64); 2] {
        [("CODES", 1.0), ("FORMAT", f64::from(self.format as u32))]
    }

    /// Computes, on the CPU, the codes of rows of `width` values, some of which `compute` gives by the number of the first.
    pub(super) fn fill(
        &self,
        width: usize,
        codes: &mut [u32],
        compute: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let (words, padded_rows) = (width.div_ceil(4), padded(self.matrix_rows));
        let at_once = PER_TASK.div_ceil(width).next_multiple_of(SIDE_BY_SIDE);
        let encoders = self.encoders.host_slice();
        let record_words = self.format.encoder_words();
        let q = half_range(self.bits);
        let tasks: Vec<(usize, usize, Vec<&mut [u32]>)> = codes
            .chunks_mut(words * padded_rows)
            .enumerate()
            .flat_map(|(matrix, codes)| {
                let stretches = stretches(codes, padded_rows, self.matrix_rows, at_once);
                let first_rows = (matrix * self.matrix_rows..).step_by(at_once);
                let tasks = first_rows.zip(stretches);
                tasks.map(move |(first_row, stretch)| (matrix, first_row, stretch))
            })
            .collect();
        tasks.into_par_iter().for_each_init(
            || (Vec::new(), Vec::new()),
            |(values, codes), (matrix, first_row, mut stretch)| {
                let record = &encoders[matrix % self.groups * record_words..][..record_words];
                let rows = stretch.first().map_or(0, |line| line.len());
                values.resize(rows * width, 0.0);
                compute(first_row, values);
                // Lanes that have no value are zero.
                codes.clear();
                codes.resize(rows * words, 0);
                fill_rows(self.format, q, width, values, record, codes);
                write_rows(codes, &mut stretch);
            },
        );
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    source: View,
    outer: u32,
    inner: u32,
    rows: u32,
    k: u32,
    jobs: u32,
    groups: u32,
    inner_groups: u32,
    group_rows: u32,
    q: f32,
    unused: [u32; 3],
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    source,
    outer,
    inner,
    rows,
    k,
    jobs,
    groups,
    inner_groups,
    group_rows,
    q,
});

/// Computes codes of `source`, `[job][problem][word][row]`: four codes along `k` to a word, rows padded to a multiple
/// of four with zeros, as an integer product takes both of its operands. `encoders` are the records of
/// `[jobs][groups]` [encoders](Format::encoders).
pub fn quantize(
    commands: &mut Commands,
    what: &Quantize,
    source: &Buffer<f32>,
    encoders: &Buffer<u32>,
) -> Buffer<u32> {
    let codes = commands.uninitialized(what.len());
    match commands.device() {
        Device::Cpu(_) => cpu(
            what,
            &source.host_slice(),
            &encoders.host_slice(),
            &mut codes.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let parameters = Parameters {
                source: what.source,
                outer: what.batch[0] as u32,
                inner: what.batch[1] as u32,
                rows: what.rows as u32,
                k: what.k as u32,
                jobs: what.jobs as u32,
                groups: what.groups as u32,
                inner_groups: what.inner_groups as u32,
                group_rows: what.group_rows as u32,
                q: half_range(what.bits),
                unused: [0; 3],
            };
            let flag = |on: bool| f64::from(u8::from(on));
            commands.dispatch(
                &SHADER,
                &[
                    ("FORMAT", f64::from(what.format as u32)),
                    ("ROW_GROUPS", flag(what.group_rows < what.rows)),
                ],
                &parameters,
                &[
                    Binding::PartOfF32(source, what.values()),
                    Binding::U32(encoders),
                    Binding::U32(&codes),
                ],
                what.jobs.div_ceil(JOBS)
                    * what.batch[0]
                    * what.batch[1]
                    * what.matrix_words().div_ceil(WORKGROUP * STRIP),
            );
        }
    }
    codes
}

/// Encodes rows of `width` values that share an encoder, whose record is given, as `[row][word]`; compiled for each
/// instruction set. Lanes that have no value keep what they hold.
#[multiversion(targets = "simd")]
pub(super) fn fill_rows(
    format: Format,
    q: f32,
    width: usize,
    x: &[f32],
    record: &[u32],
    words: &mut [u32],
) {
    // Rows that fill their words are side by side, as one; there may be none.
    let width = match width % 4 {
        0 => x.len().max(width),
        _ => width,
    };
    let lanes: &mut [u8] = bytemuck::cast_slice_mut(words);
    let rows = lanes
        .chunks_mut(width.next_multiple_of(4))
        .zip(x.chunks_exact(width));
    // The format is a constant inside each loop.
    by_format!(format, F => {
        let encoder = Encoder::of(record);
        match F::LANES {
            Some(integers) => encoder.look_up(rows, integers),
            None => {
                for (lanes, x) in rows {
                    for (lane, &x) in lanes.iter_mut().zip(x) {
                        *lane = F::encode(x, encoder, q);
                    }
                }
            }
        }
    })
}

/// Encodes words whose values have an encoder each word; compiled for each instruction set.
#[multiversion(targets = "simd")]
fn fill_words(format: Format, q: f32, x: &[[f32; 4]], records: &[u32], lanes: &mut [[u8; 4]]) {
    by_format!(format, F => {
        let records = records.chunks_exact(F::ENCODER_WORDS);
        for ((lanes, x), record) in lanes.iter_mut().zip(x).zip(records) {
            let encoder = Encoder::of(record);
            *lanes = x.map(|x| F::encode(x, encoder, q));
        }
    })
}

/// Packs the codes of values that share an encoder, from the first word's first lane on.
fn pack(format: Format, q: f32, x: &[f32], record: &[u32], words: &mut [u32]) {
    fill_rows(format, q, x.len(), x, record, words);
    for word in words {
        // The first lane is the lowest byte, which on most machines it is already.
        *word = u32::from_le(*word);
    }
}

/// Limits the words of each row that one task of the CPU version takes.
const TASK_WORDS: usize = 16;

/// Holds a stretch of the words of one matrix.
struct Part<'a> {
    problem: usize,
    first_word: usize,
    /// Where each job's codes of them go.
    codes: Vec<&'a mut [u32]>,
}

fn cpu(what: &Quantize, source: &[f32], encoders: &[u32], codes: &mut [u32]) {
    let have_one_encoder = what.jobs == 1 && what.group_rows >= what.rows;
    match what.source {
        View { column: 1, .. } if have_one_encoder => by_rows(what, source, encoders, codes),
        View { row: 1, .. } if have_one_encoder => by_lines(what, source, encoders, codes),
        _ => by_words(what, source, encoders, codes),
    }
}

/// Encodes matrices that have an encoder each, whose rows' values lie side by side.
fn by_rows(what: &Quantize, source: &[f32], encoders: &[u32], codes: &mut [u32]) {
    let (words, padded_rows) = (what.words(), padded(what.rows));
    let at_once = PER_TASK.div_ceil(what.k);
    let tasks: Vec<(usize, usize, Vec<&mut [u32]>)> = codes
        .chunks_mut(what.matrix_words())
        .enumerate()
        .flat_map(|(problem, codes)| {
            let lines = codes.chunks_exact_mut(padded_rows);
            lines.for_each(|line| line[what.rows..].fill(0));
            let stretches = stretches(codes, padded_rows, what.rows, at_once);
            let tasks = (0..).step_by(at_once).zip(stretches);
            tasks.map(move |(first_row, stretch)| (problem, first_row, stretch))
        })
        .collect();
    tasks
        .into_par_iter()
        .for_each_init(Vec::new, |codes, (problem, first_row, mut stretch)| {
            let batch = what.matrix(problem);
            let record = what.records(encoders, 0, batch);
            let rows = stretch.first().map_or(0, |line| line.len());
            // Lanes that have no value are zero.
            codes.clear();
            codes.resize(rows * words, 0);
            for (row, codes) in codes.chunks_exact_mut(words).enumerate() {
                let start = what.source.at(batch, first_row + row, 0);
                fill_rows(
                    what.format,
                    half_range(what.bits),
                    what.k,
                    &source[start..start + what.k],
                    record,
                    codes,
                );
            }
            write_rows(codes, &mut stretch);
        });
}

/// Encodes matrices that have an encoder each, of which a column's values lie side by side.
fn by_lines(what: &Quantize, source: &[f32], encoders: &[u32], codes: &mut [u32]) {
    let (words, line_words) = (what.words(), what.rows.div_ceil(4));
    codes
        .par_chunks_exact_mut(padded(what.rows))
        .enumerate()
        .with_min_len(TASK_WORDS)
        .for_each_init(Vec::new, |lines, (at, codes)| {
            let (batch, first) = (what.matrix(at / words), at % words * 4);
            let record = what.records(encoders, 0, batch);
            // Lanes that have no value are zero.
            lines.clear();
            lines.resize(4 * line_words, 0);
            let columns = first..what.k.min(first + 4);
            for (column, line) in columns.zip(lines.chunks_exact_mut(line_words)) {
                let start = what.source.at(batch, 0, column);
                fill_rows(
                    what.format,
                    half_range(what.bits),
                    what.rows,
                    &source[start..start + what.rows],
                    record,
                    line,
                );
            }
            let lines: &[u8] = bytemuck::cast_slice(lines);
            let line = |lane: usize| lines[4 * lane * line_words..][..what.rows].iter();
            let lanes = line(0).zip(line(1)).zip(line(2).zip(line(3)));
            let (codes, padding) = codes.split_at_mut(what.rows);
            for (code, ((first, second), (third, fourth))) in codes.iter_mut().zip(lanes) {
                *code = u32::from_le_bytes([*first, *second, *third, *fourth]);
            }
            padding.fill(0);
        });
}

/// Encodes one word of every row after the other, for all jobs from values that are gathered once.
fn by_words(what: &Quantize, source: &[f32], encoders: &[u32], codes: &mut [u32]) {
    let problems = what.batch[0] * what.batch[1];
    let (words, padded_rows) = (what.words(), padded(what.rows));
    let mut parts: Vec<Part> = (0..problems)
        .flat_map(|problem| {
            (0..words).step_by(TASK_WORDS).map(move |first_word| Part {
                problem,
                first_word,
                codes: Vec::with_capacity(what.jobs),
            })
        })
        .collect();
    for codes in codes.chunks_mut(problems * what.matrix_words()) {
        let stretches = codes
            .chunks_mut(what.matrix_words())
            .flat_map(|matrix| matrix.chunks_mut(TASK_WORDS * padded_rows));
        for (part, codes) in parts.iter_mut().zip(stretches) {
            part.codes.push(codes);
        }
    }
    parts.into_par_iter().for_each(|mut part| {
        let batch = what.matrix(part.problem);
        let mut values = vec![0.0; 4 * what.rows];
        for at in 0..TASK_WORDS.min(words - part.first_word) {
            let word = part.first_word + at;
            gather(what, source, batch, word, &mut values);
            for (job, codes) in part.codes.iter_mut().enumerate() {
                let records = what.records(encoders, job, batch);
                let (codes, padding) =
                    codes[at * padded_rows..][..padded_rows].split_at_mut(what.rows);
                pack_word(what, word, &values, records, codes);
                padding.fill(0);
            }
        }
    });
}

/// Gathers the values of one word of every row, four to a row. Those that lie beyond `k` stay what they were.
fn gather(what: &Quantize, source: &[f32], batch: [usize; 2], word: usize, values: &mut [f32]) {
    let lanes = (what.k - 4 * word).min(4);
    let values = values.as_chunks_mut::<4>().0;
    if what.source.column == 1 {
        for (row, values) in values.iter_mut().enumerate() {
            let start = what.source.at(batch, row, 4 * word);
            match source[start..].first_chunk() {
                Some(word) if lanes == 4 => *values = *word,
                _ => values[..lanes].copy_from_slice(&source[start..start + lanes]),
            }
        }
    } else {
        // A lane of neighbouring rows is side by side where the operand is transposed.
        for lane in 0..lanes {
            let line = &source[what.source.at(batch, 0, 4 * word + lane)..];
            let line = line.iter().step_by(what.source.row as usize);
            values
                .iter_mut()
                .zip(line)
                .for_each(|(values, value)| values[lane] = *value);
        }
    }
}

/// Computes one job's codes of one word of every row. `records` begin with those of this matrix's groups.
fn pack_word(what: &Quantize, word: usize, values: &[f32], records: &[u32], codes: &mut [u32]) {
    let q = half_range(what.bits);
    if what.group_rows == 1 {
        let (values, _) = values.as_chunks();
        fill_words(
            what.format,
            q,
            values,
            records,
            bytemuck::cast_slice_mut(codes),
        );
        codes
            .iter_mut()
            .for_each(|word| *word = u32::from_le(*word));
    } else {
        let groups = codes
            .chunks_mut(what.group_rows)
            .zip(values.chunks(4 * what.group_rows));
        let records = records.chunks_exact(what.format.encoder_words());
        for ((codes, values), record) in groups.zip(records) {
            pack(what.format, q, &values[..4 * codes.len()], record, codes);
        }
    }
    let lanes = what.k - 4 * word;
    if lanes < 4 {
        for code in codes {
            *code &= (1 << (8 * lanes)) - 1;
        }
    }
}
