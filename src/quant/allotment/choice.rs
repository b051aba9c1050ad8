//! The choice of a width for each operand, so that all together cost the least and take no more than there is.

/// Limits the steps that what there is to give is divided into. Where more would be needed, widths count as if they took
/// up to a step more than they do.
const MOST_STEPS: u64 = 1 << 16;

/// Holds what an operand takes and costs in each width that it can have.
#[derive(Clone, Debug)]
pub(super) struct Widths {
    pub sizes: Vec<u64>,
    pub costs: Vec<f64>,
}

/// Chooses one width for each of the operands, by its place among the operand's: sizes add up to no more than `most`, and
/// costs to the least that is possible then. `None` where the smallest sizes are more.
///
/// This is dynamic programming over the operands: the least cost of the first ones within each number of steps.
pub(super) fn choose(operands: &[Widths], most: u64) -> Option<Vec<usize>> {
    let smallest = |operand: &Widths| operand.sizes.iter().copied().min().unwrap_or(0);
    let least: u64 = operands.iter().map(smallest).sum();
    let free = most.checked_sub(least)?;
    let beyond = |operand: &Widths| -> Vec<u64> {
        let smallest = smallest(operand);
        operand.sizes.iter().map(|size| size - smallest).collect()
    };
    let beyond: Vec<Vec<u64>> = operands.iter().map(beyond).collect();
    let divisor = beyond.iter().flatten().copied().fold(0, greatest_divisor);
    let largest = |sizes: &Vec<u64>| sizes.iter().copied().max().unwrap_or(0);
    let all: u64 = beyond.iter().map(largest).sum();
    let step = divisor.max(free.min(all).div_ceil(MOST_STEPS)).max(1);
    let all_steps: u64 = beyond
        .iter()
        .map(|sizes| largest(sizes).div_ceil(step))
        .sum();
    let last = (free / step).min(all_steps) as usize;

    let mut best = vec![0.0; last + 1];
    let mut choices: Vec<Vec<u8>> = Vec::new();
    for (operand, beyond) in operands.iter().zip(&beyond) {
        let mut next = vec![f64::INFINITY; last + 1];
        let mut chosen = vec![0; last + 1];
        for (width, (size, cost)) in beyond.iter().zip(&operand.costs).enumerate() {
            let steps = size.div_ceil(step) as usize;
            for at in steps..=last {
                let cost = best[at - steps] + cost;
                if cost < next[at] {
                    (next[at], chosen[at]) = (cost, width as u8);
                }
            }
        }
        best = next;
        choices.push(chosen);
    }
    let mut at = last;
    let mut chosen: Vec<usize> = Vec::new();
    for (choices, beyond) in choices.iter().zip(&beyond).rev() {
        let width = usize::from(choices[at]);
        at -= beyond[width].div_ceil(step) as usize;
        chosen.push(width);
    }
    chosen.reverse();
    Some(chosen)
}

fn greatest_divisor(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        _ => greatest_divisor(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operands of some sizes, whose costs fall with the width, but not always.
    fn operands(lens: &[u64]) -> Vec<Widths> {
        let operand = |(at, &len): (usize, &u64)| Widths {
            sizes: (3..=6).map(|bits| bits * len).collect(),
            costs: (0..4)
                .map(|width| {
                    let bump = ((at * 7 + width * 5) % 4) as f64;
                    (10.0 + bump) * (1 + at % 3) as f64 / 3f64.powi(width as i32)
                })
                .collect(),
        };
        lens.iter().enumerate().map(operand).collect()
    }

    fn total(operands: &[Widths], chosen: &[usize]) -> (u64, f64) {
        let pairs = operands.iter().zip(chosen);
        pairs.fold((0, 0.0), |(size, cost), (operand, &width)| {
            (size + operand.sizes[width], cost + operand.costs[width])
        })
    }

    /// The least cost of all combinations within `most`.
    fn by_force(operands: &[Widths], most: u64) -> Option<f64> {
        let combinations = 4usize.pow(operands.len() as u32);
        let costs = (0..combinations).filter_map(|number| {
            let width = |at: usize| number / 4usize.pow(at as u32) % 4;
            let chosen: Vec<usize> = (0..operands.len()).map(width).collect();
            let (size, cost) = total(operands, &chosen);
            (size <= most).then_some(cost)
        });
        costs.reduce(f64::min)
    }

    #[test]
    fn nothing_costs_less() {
        for lens in [&[4, 4, 8, 12, 4][..], &[7, 3, 5, 1, 9], &[6]] {
            let operands = operands(lens);
            let len: u64 = lens.iter().sum();
            for most in 3 * len - 1..=6 * len + 1 {
                let chosen = choose(&operands, most);
                let expected = by_force(&operands, most);
                let found = chosen.map(|chosen| total(&operands, &chosen));
                assert_eq!(found.is_some(), expected.is_some(), "{lens:?}, {most}");
                let Some(((size, cost), expected)) = found.zip(expected) else {
                    continue;
                };
                assert!(size <= most, "{lens:?}: {size} of {most}");
                // Sums in another order.
                assert!((cost / expected - 1.0).abs() < 1e-12, "{lens:?}, {most}");
            }
        }
    }

    #[test]
    fn sizes_without_a_common_divisor_stay_within_what_there_is() {
        let operands = operands(&[1_000_003, 2_000_029, 3_000_017]);
        for most in [18_000_147, 20_000_000, 27_000_001, 40_000_000] {
            let chosen = choose(&operands, most).unwrap();
            let (size, cost) = total(&operands, &chosen);
            assert!(size <= most);
            // A part of a step is lost for each operand, and one of all together.
            let steps = 4 * most.div_ceil(MOST_STEPS);
            assert!(by_force(&operands, most - steps).is_none_or(|least| cost <= least + 1e-9));
        }
    }

    #[test]
    fn no_operand_takes_nothing() {
        assert_eq!(choose(&[], 0), Some(Vec::new()));
    }
}
