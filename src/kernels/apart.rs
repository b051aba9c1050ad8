//! Writing parts of a buffer side by side, on the CPU.

use rayon::prelude::*;
use std::ops::Range;

/// Writes a row's values `step` apart.
pub(super) fn write_each(values: &[f32], out: &mut [f32], step: usize) {
    if step == 1 {
        out[..values.len()].copy_from_slice(values);
    } else {
        let places = out.iter_mut().step_by(step);
        places
            .zip(values)
            .for_each(|(place, value)| *place = *value);
    }
}

/// Runs `write` on every item with the slice of `out` that it may write to and the slice's place: side by side for those
/// whose spans lie apart, one after another for those that have the same key. The keys are tried in turn.
pub(super) fn write_apart<I: Sync + Send, K: Ord, T: Send>(
    mut items: Vec<I>,
    keys: &[&dyn Fn(&I) -> K],
    span: impl Fn(&I) -> Range<usize>,
    write: impl Fn(&I, usize, &mut [T]) + Sync,
    out: &mut [T],
) {
    for key in keys {
        items.sort_by_key(key);
        let mut groups: Vec<(Range<usize>, &[I])> = items
            .chunk_by(|a, b| key(a) == key(b))
            .map(|group| {
                let spans = group.iter().map(&span);
                let span = spans.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
                (span.expect("no group is empty"), group)
            })
            .collect();
        groups.sort_by_key(|(span, _)| span.start);
        if groups.is_sorted_by(|(a, _), (b, _)| a.end <= b.start) {
            let mut rest = (0, out);
            let tasks: Vec<_> = groups
                .into_iter()
                .map(|(span, group)| {
                    let (at, slice) = std::mem::take(&mut rest);
                    let (slice, after) = slice[span.start - at..].split_at_mut(span.len());
                    rest = (span.end, after);
                    (span.start, slice, group)
                })
                .collect();
            tasks.into_par_iter().for_each(|(start, slice, group)| {
                group.iter().for_each(|item| write(item, start, slice));
            });
            return;
        }
    }
    unreachable!("the last key puts together whatever lies between other items' places");
}

/// Takes slices of `out` at the places of each item, in their order; all of them lie apart.
pub(super) fn take_apart<T>(
    items: impl Iterator<Item: Iterator<Item = Range<usize>>>,
    out: &mut [T],
) -> Vec<Vec<&mut [T]>> {
    let mut taken = Vec::new();
    let mut places = Vec::new();
    for (item, ranges) in items.enumerate() {
        let before = places.len();
        places.extend(ranges.map(|range| (range.start, range.len(), item)));
        taken.push(Vec::with_capacity(places.len() - before));
    }
    places.sort_unstable();
    let mut rest = (0, out);
    for (start, len, item) in places {
        let (at, slice) = std::mem::take(&mut rest);
        let (slice, after) = slice[start - at..].split_at_mut(len);
        rest = (start + len, after);
        taken[item].push(slice);
    }
    taken
}
