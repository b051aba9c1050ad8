//! What is known of every kernel: cases of it, each with its inputs and what must come out, by a formula of its own.
//!
//! `verify` compares devices with the CPU versions on these cases; `tests/kernels.rs` compares both with the formulas.
//! Inputs are made by exact operations only, so they are the same bits on every machine, and so is the hash of what is
//! exact. A formula is written down plainly, in f64 or in integers, over indices, and calls nothing of the kernels. A
//! float's bound follows from the formula's steps, each of which rounds; beside it stands from which.
//!
//! `bench` times what a kernel lists as [timed](Timed).

pub(crate) mod codes;
mod random;
mod row_codes;
mod timed;

pub(crate) use codes::CodeRange;
pub(super) use codes::{FORMATS, Group, TABLES, format_name, packed};
pub(crate) use random::Random;
pub(super) use row_codes::CodedRows;
pub use timed::{
    Amount, Epilogue, Exercise, Launch, NetworkProduct, Prepared, Role, Timed, Variant,
};
pub(super) use timed::{BITS, encoders, row_codes};
pub(crate) use timed::{Operands, scale_to};

use super::View;
use crate::device::{Buffer, Commands, Device, Strategy, Tile};
use crate::error::Result;
use half::f16;
use std::fmt::{self, Display};
use std::sync::{Arc, LazyLock};

/// Measures the distance from 1 to the next f32: an operation that rounds correctly errs by at most half of it.
pub(super) const EPSILON: f64 = f32::EPSILON as f64;
/// Bounds the floats that a device may take for zero.
pub(super) const SMALLEST: f64 = f32::MIN_POSITIVE as f64;
/// Lists sizes that fill no tile, no vector and no workgroup evenly; 1 among them.
pub(super) const RAGGED: [usize; 5] = [1, 3, 7, 65, 197];
/// Lists rows and widths, `[rows, width]`, for kernels of rows: ragged ones, and those that are just short of a row's or a
/// workgroup's invocations, or just beyond.
pub(super) const ROWS: [[usize; 2]; 11] = [
    [1, 197],
    [3, 65],
    [7, 7],
    [65, 3],
    [197, 1],
    [2, 31],
    [4, 32],
    [5, 33],
    [6, 768],
    [8, 1025],
    [9, 4],
];
/// Fills an output before a kernel that writes parts of it: the rest must stay.
pub(super) const UNTOUCHED: f32 = -77.0;

/// Describes a kernel and its cases.
pub struct Kernel {
    /// The name of its files.
    pub name: &'static str,
    /// Its shader, without the pieces that it shares with others.
    pub text: &'static str,
    /// A mistake that its cases must find.
    pub mistake: Option<Mistake>,
    pub(super) cases: fn() -> Vec<Case>,
    /// How it is timed, if it is on its own.
    pub timed: Option<Timed>,
}

/// Describes a mistake in a shader that the kernel's cases find.
pub struct Mistake {
    /// A piece of the shader's text.
    pub right: &'static str,
    /// What stands in its place.
    pub wrong: &'static str,
}

impl Kernel {
    /// Lists inputs of ragged and extreme sizes and values, each case under a name of its own.
    pub fn cases(&self) -> Vec<Case> {
        (self.cases)()
    }
}

/// Holds what a kernel leaves in a buffer; f16 as f32.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Floats.
    Floats(Vec<f32>),
    /// Packed codes, or what else is an integer.
    Words(Vec<u32>),
}

/// Says what must come out of a case.
pub enum Answer {
    /// These, bit for bit; zeros of either sign are the same.
    Exact(Values),
    /// Floats: each value, and how far from it a float may be.
    Close(Vec<(f64, f64)>),
    /// Packed codes of floats that may be so far from their values.
    Codes(CodeRange),
}

/// Says where a result isn't what it must be.
#[derive(Debug)]
pub struct Difference {
    /// Where it first isn't: a value's place in the result, or a code's.
    pub index: usize,
    /// What is there.
    pub found: String,
    /// What must be there.
    pub expected: String,
    /// How many are wrong.
    pub wrong: usize,
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self {
            index,
            found,
            expected,
            wrong,
        } = self;
        write!(
            f,
            "[{index}] is {found}, expected {expected} ({wrong} wrong)"
        )
    }
}

type Run = Arc<dyn Fn(&mut Commands, &Device) -> Outcome + Send + Sync>;
type Formula<T> = Arc<dyn Fn() -> T + Send + Sync>;

#[derive(Clone)]
enum Formulas {
    Exact(Formula<Values>),
    Close(Formula<Vec<(f64, f64)>>),
    Codes(Formula<CodeRange>),
}

/// Holds a kernel's inputs, and what must come out.
#[derive(Clone)]
pub struct Case {
    name: String,
    run: Run,
    unfused: Option<Run>,
    formula: Formulas,
    bit_for_bit: bool,
    divided: Option<Divided>,
    /// Whether invocations share rows; `None` where the kernel has no rows to share.
    shares_rows: Option<bool>,
    runs_on: fn(&Device) -> bool,
}

/// Says how a product's work is divided in a case: the name that its strategies are set by, and which are tried.
#[derive(Clone, Copy)]
struct Divided {
    name: &'static str,
    strategies: &'static [Strategy],
}

/// Lists strategies of every device: besides the usual tile some that are small and uneven and one that is wide. The uneven ones
/// have one vector or two to each side of an invocation, one stage or two, and as many slices as given.
const fn strategies([of_staged, of_flat]: [u32; 2]) -> [Strategy; 5] {
    let staged = Tile {
        lanes: [2, 5],
        step: 3,
        stages: 2,
        slices: of_staged,
        ..Tile::DEFAULT
    };
    let flat = Tile {
        lanes: [3, 4],
        row_vectors: 1,
        column_vectors: 2,
        step: 5,
        slices: of_flat,
        ..Tile::DEFAULT
    };
    let wide = Tile {
        lanes: [16, 16],
        step: 16,
        ..Tile::DEFAULT
    };
    [
        Strategy::Registers,
        Strategy::Tiled(Tile::DEFAULT),
        Strategy::Tiled(staged),
        Strategy::Tiled(flat),
        Strategy::Tiled(wide),
    ]
}

/// Lists those of sums of floats, which no invocations share.
pub(super) const OF_FLOATS: [Strategy; 5] = strategies([1, 1]);
/// Lists those of sums of integers.
pub(super) const OF_INTEGERS: [Strategy; 5] = strategies([4, 2]);

/// Lists one of each kind among them, for what a tile's sides don't change.
const KINDS: [Strategy; 2] = [Strategy::Registers, Strategy::Tiled(Tile::DEFAULT)];

impl Case {
    /// Returns the name: sizes and formats.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says whether every device gives the same bits.
    pub fn is_bit_for_bit(&self) -> bool {
        self.bit_for_bit
    }

    /// Computes what must come out, by the formula.
    pub fn answer(&self) -> Answer {
        match &self.formula {
            Formulas::Exact(formula) => Answer::Exact(formula()),
            Formulas::Close(formula) => Answer::Close(formula()),
            Formulas::Codes(formula) => Answer::Codes(formula()),
        }
    }

    /// Computes what the CPU version makes of it.
    ///
    /// # Errors
    /// None that a CPU has.
    pub fn cpu(&self) -> Result<Values> {
        let cpu = Device::spoiling_cpu();
        cpu.wait(values(&self.run, &cpu))
    }

    /// Runs it on `device` under each of the strategies that are to be tried and that the device offers, or once where
    /// there is nothing to choose; not at all where the device lacks what it needs. Hands over each result.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, device: &Device, each: &mut dyn FnMut(Option<Strategy>, Result<Values>)) {
        let run = device.wait(async {
            self.run_async(device, each).await;
            Ok(())
        });
        run.expect("errors are handed over");
    }

    /// Does what [`run`](Self::run) does, without waiting, as a browser needs it. On a native target it blocks the thread.
    pub async fn run_async(
        &self,
        device: &Device,
        each: &mut dyn FnMut(Option<Strategy>, Result<Values>),
    ) {
        for strategy in self.strategies(device) {
            let undivide = self.divide(device, strategy);
            let found = values(&self.run, device).await;
            undivide();
            each(strategy, found);
        }
    }

    /// Begins to compile everything that [`run`](Self::run) runs on `device`, so that it compiles side by side.
    pub fn compile(&self, device: &Device) {
        for strategy in self.strategies(device) {
            let undivide = self.divide(device, strategy);
            Commands::record(device, |commands| drop((self.run)(commands, device)));
            undivide();
        }
    }

    /// Lists the strategies to run it under on `device`: none of them where there is nothing to choose.
    fn strategies(&self, device: &Device) -> Vec<Option<Strategy>> {
        if !(self.runs_on)(device) {
            return Vec::new();
        }
        match (self.divided, device) {
            (None, _) => vec![None],
            // The CPU divides nothing, and has no units for matrices.
            (Some(divided), Device::Cpu(_))
                if divided.strategies.iter().all(|it| !it.is_experimental()) =>
            {
                vec![None]
            }
            (Some(divided), _) => {
                let offered = divided.strategies.iter().filter(|&&it| device.offers(it));
                offered.copied().map(Some).collect()
            }
        }
    }

    /// Computes what must have the same bits on the same device: the kernels that it stands for, one after the other.
    pub fn unfused(&self, device: &Device) -> Option<Result<Values>> {
        let run = self.unfused.as_ref()?;
        let undivide = self.divide(device, None);
        let found = device.wait(values(run, device));
        undivide();
        Some(found)
    }

    /// Makes `device` divide work by `strategy`, if there is one, and share rows as the case wants it. Returns what undoes it.
    fn divide<'d>(
        &self,
        device: &'d Device,
        strategy: Option<Strategy>,
    ) -> impl FnOnce() + use<'d> {
        let shared = device.shares_rows();
        device.set_shares_rows(self.shares_rows.unwrap_or(shared));
        let usual = self.divided.zip(strategy).and_then(|(divided, strategy)| {
            let usual = device.strategy(divided.name)?;
            device.set_strategy(divided.name, strategy);
            Some((divided.name, usual))
        });
        move || {
            device.set_shares_rows(shared);
            if let Some((name, usual)) = usual {
                device.set_strategy(name, usual);
            }
        }
    }

    /// Demands the same bits of every device, though the formula leaves some of them open.
    pub(super) fn bit_for_bit(self) -> Self {
        Self {
            bit_for_bit: true,
            ..self
        }
    }

    /// Runs the case under these strategies of products of this name.
    pub(super) fn by_strategy(self, name: &'static str, strategies: &'static [Strategy]) -> Self {
        let divided = Some(Divided { name, strategies });
        Self { divided, ..self }
    }

    /// Runs the case's product by one strategy of each kind alone.
    pub(super) fn by_kind(self) -> Self {
        self.by(&KINDS)
    }

    /// Runs the case's product by these strategies alone.
    pub(super) fn by(self, strategies: &'static [Strategy]) -> Self {
        let divided = self.divided.map(|divided| Divided {
            strategies,
            ..divided
        });
        Self { divided, ..self }
    }

    /// Restricts the case to devices that have what it needs.
    pub(super) fn on(self, runs_on: fn(&Device) -> bool) -> Self {
        Self { runs_on, ..self }
    }

    /// Makes two cases of one: with a row to an invocation, and with rows that several share. Whatever a device does by
    /// itself, it is seen to do both.
    pub(super) fn by_row_division(self) -> [Self; 2] {
        let shared = Self {
            name: format!("{}, rows shared", self.name),
            shares_rows: Some(true),
            ..self.clone()
        };
        let alone = Self {
            shares_rows: Some(false),
            ..self
        };
        [alone, shared]
    }
}

/// Holds a case whose formula is still to come.
pub(super) struct Draft<D> {
    name: String,
    inputs: Inputs<D>,
    run: Run,
    unfused: Option<Run>,
}

/// Makes inputs when they are first needed.
type Inputs<D> = Arc<LazyLock<D, Box<dyn FnOnce() -> D + Send>>>;

/// Drafts a case of what `run` does with `inputs`.
pub(super) fn case<D: Send + Sync + 'static, R: Into<Outcome>>(
    name: impl Into<String>,
    inputs: impl FnOnce() -> D + Send + 'static,
    run: impl Fn(&mut Commands, &Device, &D) -> R + Send + Sync + 'static,
) -> Draft<D> {
    let inputs: Inputs<D> = Arc::new(LazyLock::new(Box::new(inputs)));
    Draft {
        name: name.into(),
        run: given(&inputs, run),
        inputs,
        unfused: None,
    }
}

fn given<D: Send + Sync + 'static, R: Into<Outcome>>(
    inputs: &Inputs<D>,
    run: impl Fn(&mut Commands, &Device, &D) -> R + Send + Sync + 'static,
) -> Run {
    let inputs = inputs.clone();
    Arc::new(move |commands, device| run(commands, device, &inputs).into())
}

/// Computes what `run` leaves on `device`.
async fn values(run: &Run, device: &Device) -> Result<Values> {
    let mut commands = Commands::new(device);
    let outcome = run(&mut commands, device);
    outcome.values(&mut commands).await
}

impl<D: Send + Sync + 'static> Draft<D> {
    /// Demands the same bits as `run` gives, on the same device.
    pub(super) fn unfused<R: Into<Outcome>>(
        self,
        run: impl Fn(&mut Commands, &Device, &D) -> R + Send + Sync + 'static,
    ) -> Self {
        Self {
            unfused: Some(given(&self.inputs, run)),
            ..self
        }
    }

    /// Compares every bit with the formula's.
    pub(super) fn exact<T>(self, formula: impl Fn(&D) -> Vec<T> + Send + Sync + 'static) -> Case
    where
        Values: From<Vec<T>>,
    {
        let formula = Formulas::Exact(self.given(move |inputs| formula(inputs).into()));
        self.with(formula).bit_for_bit()
    }

    /// Compares floats with the formula's: each value with a bound on its error.
    pub(super) fn close(
        self,
        formula: impl Fn(&D) -> Vec<(f64, f64)> + Send + Sync + 'static,
    ) -> Case {
        let formula = Formulas::Close(self.given(formula));
        self.with(formula)
    }

    /// Compares packed codes of floats that may err.
    pub(super) fn codes(self, formula: impl Fn(&D) -> CodeRange + Send + Sync + 'static) -> Case {
        let formula = Formulas::Codes(self.given(formula));
        self.with(formula)
    }

    fn given<T>(&self, formula: impl Fn(&D) -> T + Send + Sync + 'static) -> Formula<T> {
        let inputs = self.inputs.clone();
        Arc::new(move || formula(&inputs))
    }

    fn with(self, formula: Formulas) -> Case {
        Case {
            name: self.name,
            run: self.run,
            unfused: self.unfused,
            formula,
            bit_for_bit: false,
            divided: None,
            shares_rows: None,
            runs_on: |_| true,
        }
    }
}

/// Holds what a kernel wrote, on its device.
pub(super) enum Outcome {
    Floats(Buffer<f32>),
    Halves(Buffer<f16>),
    Words(Buffer<u32>),
    Codes(Unpadded),
}

/// Holds words of codes, of which those of the rows that pad a matrix don't count: `rows` are a matrix.
pub(super) struct Unpadded {
    pub codes: Buffer<u32>,
    pub rows: usize,
}

impl Outcome {
    /// Reads it back, with zero for words of codes that don't count.
    async fn values(self, commands: &mut Commands) -> Result<Values> {
        Ok(match self {
            Self::Floats(floats) => commands.read_async(&floats).await?.into(),
            Self::Halves(halves) => {
                let halves = commands.read_async(&halves).await?.into_iter();
                Values::Floats(halves.map(f16::to_f32).collect())
            }
            Self::Words(words) => commands.read_async(&words).await?.into(),
            Self::Codes(Unpadded { codes, rows }) => {
                let padded = rows.next_multiple_of(4);
                let words = commands.read_async(&codes).await?.into_iter().enumerate();
                let counted = words.map(|(at, word)| if at % padded < rows { word } else { 0 });
                Values::Words(counted.collect())
            }
        })
    }
}

impl From<Buffer<f32>> for Outcome {
    fn from(floats: Buffer<f32>) -> Self {
        Self::Floats(floats)
    }
}

impl From<Buffer<f16>> for Outcome {
    fn from(halves: Buffer<f16>) -> Self {
        Self::Halves(halves)
    }
}

impl From<Buffer<u32>> for Outcome {
    fn from(words: Buffer<u32>) -> Self {
        Self::Words(words)
    }
}

impl From<Unpadded> for Outcome {
    fn from(codes: Unpadded) -> Self {
        Self::Codes(codes)
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self::Floats(values)
    }
}

impl From<Vec<u32>> for Values {
    fn from(words: Vec<u32>) -> Self {
        Self::Words(words)
    }
}

impl Values {
    /// Counts the values.
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Words(words) => words.len(),
        }
    }

    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Answer {
    /// Counts the values that there must be.
    pub fn len(&self) -> usize {
        match self {
            Self::Exact(values) => values.len(),
            Self::Close(values) => values.len(),
            Self::Codes(range) => range.low.len(),
        }
    }

    /// Says whether there must be none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Finds where `found`, which has as many values, is something else.
    ///
    /// # Panics
    /// If `found` is of another kind.
    pub fn difference(&self, found: &Values) -> Option<Difference> {
        match (self, found) {
            (Self::Exact(Values::Floats(expected)), Values::Floats(found)) => first_of(
                found.len(),
                |at| found[at] == expected[at],
                |at| format!("{:e}", found[at]),
                |at| format!("{:e}", expected[at]),
            ),
            (Self::Exact(Values::Words(expected)), Values::Words(found)) => first_of(
                found.len(),
                |at| found[at] == expected[at],
                |at| format!("{:#010x}", found[at]),
                |at| format!("{:#010x}", expected[at]),
            ),
            (Self::Close(expected), Values::Floats(found)) => first_of(
                found.len(),
                // So written that NaN fails.
                |at| (f64::from(found[at]) - expected[at].0).abs() <= expected[at].1,
                |at| format!("{:e}", found[at]),
                |at| format!("{:e}, to within {:.1e}", expected[at].0, expected[at].1),
            ),
            (Self::Codes(range), Values::Words(found)) => range.difference(found),
            _ => unreachable!("a kernel's results are of one kind"),
        }
    }

    /// Finds the largest error of floats in units of its bound, where they keep to them.
    pub fn share_of_bound(&self, found: &Values) -> Option<f64> {
        let (Self::Close(expected), Values::Floats(found)) = (self, found) else {
            return None;
        };
        let pairs = found.iter().zip(expected);
        let errors =
            pairs.map(|(&found, &(value, bound))| ((f64::from(found) - value).abs(), bound));
        let within = errors.filter(|(error, bound)| *error > 0.0 && error <= bound);
        Some(within.fold(0.0, |worst, (error, bound)| worst.max(error / bound)))
    }
}

/// Finds the first of `len` values that isn't right, and how many aren't.
fn first_of<F: Display, E: Display>(
    len: usize,
    right: impl Fn(usize) -> bool,
    found: impl Fn(usize) -> F,
    expected: impl Fn(usize) -> E,
) -> Option<Difference> {
    let mut wrong = (0..len).filter(|&at| !right(at));
    let index = wrong.next()?;
    Some(Difference {
        index,
        found: found(index).to_string(),
        expected: expected(index).to_string(),
        wrong: 1 + wrong.count(),
    })
}

/// Finds where element (`outer`, `inner`, `row`, `column`) of a view lies.
pub(super) fn place(view: &View, [outer, inner]: [usize; 2], row: usize, column: usize) -> usize {
    let steps = [
        (outer, view.outer),
        (inner, view.inner),
        (row, view.row),
        (column, view.column),
    ];
    let steps = steps.map(|(count, stride)| count * stride as usize);
    view.offset as usize + steps.iter().sum::<usize>()
}

/// Describes the queries, keys or values, as `which` is 0, 1 or 2, of attention in `[images][tokens][3][heads][dim]`.
pub(super) fn third(which: usize, [tokens, heads, dim]: [usize; 3]) -> View {
    let width = 3 * heads * dim;
    View::new(which * heads * dim, [tokens * width, dim], width, 1)
}

/// Makes an order of `tokens` tokens; with `padded`, it has padding after each third.
pub(super) fn token_order(tokens: usize, padded: bool) -> Vec<u32> {
    // 5 has no factor in common with the sizes that are used, so this visits every token.
    let tokens_in_order = (0..tokens).map(|at| (at * 5 + 2) % tokens);
    let with_padding = tokens_in_order.enumerate().flat_map(|(at, token)| {
        let padding = (padded && at % 3 == 0).then_some(tokens);
        [token].into_iter().chain(padding)
    });
    with_padding.map(|token| token as u32).collect()
}

/// Reorders `values` `[images][tokens][dim]`: the tokens of each image in the order `from`; the default for padding.
pub(super) fn reordered<T: Copy + Default>(
    from: &[u32],
    tokens: usize,
    dim: usize,
    values: &[T],
) -> Vec<T> {
    let mut result = Vec::new();
    for image in values.chunks_exact(tokens * dim) {
        for &token in from {
            match image.chunks_exact(dim).nth(token as usize) {
                Some(token) => result.extend(token),
                None => result.extend(vec![T::default(); dim]),
            }
        }
    }
    result
}

/// Converts values to f64.
pub(super) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Computes the gradient at `x` of Σ grad · function(x), by central differences: good to about 1e-9 of the values.
#[cfg(test)]
pub(super) fn gradient(function: impl Fn(&[f64]) -> Vec<f64>, x: &[f64], grad: &[f64]) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let total = |x: &[f64]| -> f64 { function(x).iter().zip(grad).map(|(y, g)| y * g).sum() };
    let slope = |at: usize| {
        let moved = |by: f64| {
            let mut moved = x.to_vec();
            moved[at] += by;
            total(&moved)
        };
        (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
    };
    (0..x.len()).map(slope).collect()
}

#[cfg(test)]
mod tests {
    use super::super::KERNELS;
    use std::collections::HashSet;

    #[test]
    fn every_kernel_has_cases_and_each_has_a_name_of_its_own() {
        for kernel in KERNELS {
            let cases = kernel.cases();
            assert!(!cases.is_empty(), "{} has no cases", kernel.name);
            let names: HashSet<&str> = cases.iter().map(|case| case.name()).collect();
            assert_eq!(names.len(), cases.len(), "{}", kernel.name);
        }
    }
}
