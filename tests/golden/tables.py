"""The steps of preset `best` for one product with a weight, in float64: levels and their grids, how the inputs vary, the
weight's rounding, the bias; and for the probabilities of attention. What a file holds as f32 is rounded to it here, and bins
are counted in f32."""

import numpy as np

BINS, MOST_BINS, TOPS, SHIFTS = 4096, 512, range(60, 128), range(12)
SHARES = [0.03 * part for part in range(10, 36)]
SCALES, FRACTIONS, NEIGHBOURS, DAMPING = 29, (0.35, 1.05), 2, 0.01


def histogram(values, importance, root, bins=BINS):
    """The weighted means and the shares of the values in bins that are equal in |x|^(1/root)."""
    x = values.astype(np.float32)
    x = {1: x, 2: np.copysign(np.sqrt(np.abs(x)), x), 3: np.cbrt(x)}[root]
    per_unit = np.float32(bins) / (x.max() - x.min())
    bins_of = np.minimum(((x - x.min()) * per_unit).astype(int), bins - 1)
    sums, moments = (np.bincount(bins_of, weights, bins) for weights in (importance, importance * values.astype(float)))
    there = sums > 0
    return moments[there] / sums[there], sums[there] / sums.sum()


def error(counted, levels):
    x, share = counted
    return float(share @ np.square(x[:, None] - levels).min(1))


def merged(counted, most):
    """Neighbouring bins put together, so that there are no more than so many."""
    x, share = counted
    starts = np.arange(0, len(x), -(-len(x) // most))
    moments, share = (np.add.reduceat(each, starts) for each in (x * share, share))
    return moments / share, share


def with_certainty(counted, values):
    """The distribution of one more probability than there are values: 1."""
    x, share = counted
    return np.append(x, 1.0), np.append(share * values, 1.0) / (values + 1)


def optimal_levels(counted, count):
    """The levels with the least error, of all ways to cut the bins into stretches."""
    x, share = merged(counted, MOST_BINS)
    bins = len(share)
    if bins <= count:
        return x
    cost = np.full((bins + 1, bins + 1), np.inf)
    for start in range(bins):
        weight, first, second = (np.cumsum(share[start:] * (x[start:] - x[start]) ** power) for power in range(3))
        cost[start, start + 1 :] = second - first**2 / weight
    best, cuts = cost[0], []
    for _ in range(count - 1):
        longer = best[:, None] + cost
        best = longer.min(0)
        cuts.append(longer.argmin(0))
    ends = [bins]
    for cut in reversed(cuts):
        ends.append(cut[ends[-1]])
    ends = [0] + ends[::-1]
    return np.array([np.average(x[a:b], weights=share[a:b]) for a, b in zip(ends, ends[1:])])


def least(errors):
    """The first of the least, and by how much the next one is worse."""
    errors = np.array(errors)
    best = int(errors.argmin())
    return best, np.delete(errors, best).min() / errors[best] - 1


class Grid:
    """Levels that a product can have: rising integers, a step, a shift, an offset."""

    def __init__(self, integers, step, shift, offset):
        self.integers, self.shift = np.unique(integers), shift
        self.step, self.offset = np.float32(step), np.float32(offset)

    def values(self):
        return self.integers * float(self.step) + float(self.offset)

    def lanes(self, is_twin):
        if is_twin:
            return np.where(self.integers < 128, self.integers, 128 | self.integers >> self.shift).astype(np.uint8)
        return self.integers.astype(np.int8).view(np.uint8)


def signed(levels, has_offset):
    """Grids of 8-bit integers about the levels' middle, or about zero."""
    offset = (levels[0] + levels[-1]) / 2 if has_offset else 0
    reach = np.abs(levels - offset).max()
    return [Grid(np.rint((levels - offset) / (reach / top)).astype(int), reach / top, 0, offset) for top in TOPS]


def ranges(levels, has_offset):
    """Grids of two ranges above the smallest level, or above zero."""
    offset, grids = levels[0] if has_offset else 0, []
    for shift in SHIFTS:
        lanes = np.unique(np.concatenate([np.arange(128), np.arange(128) << shift]))
        for top in TOPS:
            step = (levels[-1] - offset) / (top << shift)
            places = np.maximum((levels - offset) / step, 0)
            grids.append(Grid(lanes[np.abs(places[:, None] - lanes).argmin(1)], step, shift, offset))
    return grids


def all_ranges(high):
    """Grids of all integers of two ranges above zero, which reach shares of `high`."""
    grids = []
    for shift in SHIFTS:
        lanes = np.unique(np.concatenate([np.arange(128), np.arange(128) << shift]))
        grids += [Grid(lanes, share * high / (127 << shift), shift, 0) for share in SHARES]
    return grids


def nearest(levels, x):
    """The index of the nearest of rising levels, and how close x comes to a boundary, in units of the levels' reach."""
    boundaries = (levels[1:] + levels[:-1]) / 2
    margin = np.abs(x[..., None] - boundaries).min() / np.abs(levels).max()
    return np.searchsorted(boundaries, x), margin


def successive(rows, scales, integers, hessian):
    """GPTQ: the columns in the order of falling diagonals, each rounded and its error put on those that are left. The
    inverse is that of the Hessian of these, found anew every time."""
    rows, left = rows.copy(), list(np.argsort(-np.diag(hessian)))
    chosen, margins = np.zeros(rows.shape, int), []
    while left:
        inverse = np.linalg.inv(hessian[np.ix_(left, left)])
        column = left.pop(0)
        at, margin = nearest(integers.astype(float), rows[:, column] / scales)
        chosen[:, column] = integers[at]
        off = (rows[:, column] - integers[at] * scales) / inverse[0, 0]
        rows[:, left] -= np.outer(off, inverse[0, 1:])
        margins.append(margin)
    return chosen, min(margins)


def spread(errors, hessian):
    """The variances of the outputs whose weights are off by `errors`."""
    return np.einsum("ri,ij,rj->r", errors, hessian, errors)


def probabilities(p, fisher, bits):
    """What the probabilities of a head become codes by: certainty counts as one more value."""
    importance = (0.9 * fisher / fisher.mean() + 0.1).ravel()
    seen = histogram(p.ravel(), importance, 3)
    counted = with_certainty(seen, p.size)
    if bits == 8:
        grids = all_ranges(1.0)
    else:
        grids = ranges(optimal_levels(with_certainty(merged(seen, MOST_BINS - 1), p.size), 2**bits), False)
    best, margin = least([error(counted, grid.values()) for grid in grids])
    grid = grids[best]
    answers = {"levels": grid.lanes(True), "scale": np.array([grid.step]), "shift": np.array([grid.shift], np.int32)}
    return answers, margin


def site(a, a_fisher, out_fisher, weight, bias, bits, is_twin):
    """What a product's integers are, and how near any of them is to another."""
    margins = {}
    importance = (0.9 * a_fisher / a_fisher.mean() + 0.1).ravel()
    counted = histogram(a.ravel(), importance, 2)
    if is_twin:
        levels = optimal_levels(histogram(a.ravel(), np.sqrt(importance), 2), 2**bits)
        grids = ranges(levels, True)
    else:
        grids = signed(optimal_levels(counted, 2**bits), True)
    best, margins["grid"] = least([error(counted, grid.values()) for grid in grids])
    grid = grids[best]
    at, margins["inputs"] = nearest(grid.values(), a.astype(float))
    rounded = grid.values()[at]

    rows = out_fisher.sum(1)
    rows = np.sqrt(rows / rows.mean() + 1e-8)
    rows /= rows.sum()
    mean, rounded_mean = rows @ a, rows @ rounded
    covariance = (rounded - rounded_mean).T * rows @ (rounded - rounded_mean)
    hessian = covariance + DAMPING * np.diag(covariance).mean() * np.eye(len(covariance))

    largest = np.abs(weight).max(1)
    fractions = weight / largest[:, None]
    importance = largest[:, None].astype(float) ** 2 * np.diag(hessian)
    counted = histogram(fractions.ravel(), importance.ravel(), 1)
    grids = signed(optimal_levels(counted, 2**bits), False)
    best, margins["weight's grid"] = least([error(counted, grid.values()) for grid in grids])
    integers = grids[best].integers
    shares = FRACTIONS[0] + np.arange(SCALES) / (SCALES - 1) * (FRACTIONS[1] - FRACTIONS[0])
    tried = (largest / np.abs(integers).max() * shares[:, None]).astype(np.float32).astype(float)
    weight = weight.astype(float)
    off = [integers[nearest(integers.astype(float), weight / s[:, None])[0]] * s[:, None] - weight for s in tried]
    apart = np.array([np.square(each) @ np.diag(hessian) for each in off])
    together = np.array([spread(each, hessian) for each in off])
    scales, gaps = [], []
    for row in range(len(weight)):
        first, gap = least(apart[:, row])
        near = range(max(first - NEIGHBOURS, 0), min(first + NEIGHBOURS + 1, SCALES))
        best, closer = least(together[near, row])
        scales.append(tried[near[best], row])
        gaps += [gap, closer]
    margins["scales"] = min(gaps)
    scales = np.array(scales)
    margins["order"] = np.diff(np.sort(np.diag(hessian))).min() / np.diag(hessian).mean()
    chosen, margins["codes"] = successive(weight, scales, integers, hessian)
    stands_for = chosen * scales[:, None]
    corrected = bias + float(grid.offset) * stands_for.sum(1) + weight @ mean - stands_for @ rounded_mean
    answers = {
        "a.levels": grid.lanes(is_twin),
        "a.scale": np.array([grid.step]),
        "a.shift": np.array([grid.shift], np.int32),
        "a.offset": np.array([grid.offset]),
        "covariance": covariance.astype(np.float32),
        "b.levels": integers.astype(np.int8).view(np.uint8),
        "b.scale": scales.astype(np.float32),
        "b.lanes": chosen.astype(np.int8).view(np.uint8),
        "b.error": spread(stands_for - weight, hessian).astype(np.float32),
        "corrected": corrected.astype(np.float32),
    }
    return answers, margins
