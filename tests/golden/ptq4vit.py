"""PTQ4ViT (arXiv 2111.12293) as the paper states it: formats, metrics, and the search of its Algorithm 1."""

import math

import torch

GELU_MINIMUM = 0.16997124254703522
ALPHA, BETA, CANDIDATES, ROUNDS = 0.0, 1.2, 100, 3
MAX_SHIFT = 11

# A format quantizes `x` under a scale (a number, or a tensor that `x` can be divided by) and a shift, with q = 2^(bits - 1).
# It says which values over `dims` its scales have to reach, one for each scale, and lists the candidates for them: pairs of
# the scales and a shift.


class Uniform:
    """Signed codes."""

    @staticmethod
    def largest(x, dims):
        return x.abs().amax(dims)

    @staticmethod
    def quantize(x, scale, shift, q):
        return (x / scale).round().clamp(-q, q - 1) * scale

    @staticmethod
    def candidates(largest, q):
        return [(scale, None) for scale in fractions(largest)[:, None] * (largest / q)]


class SoftmaxTwin:
    """R1 for what it can hold, R2 up to 1."""

    @staticmethod
    def largest(x, dims):
        return x.amax().reshape(1)

    @staticmethod
    def quantize(x, scale, shift, q):
        low, scale_2 = (x / scale).round(), scale * 2.0**shift
        return torch.where(low <= q - 1, low * scale, (x / scale_2).round().clamp(0, q - 1) * scale_2)

    @staticmethod
    def candidates(largest, q):
        return [(torch.full_like(largest, 1 / q / 2**shift), shift) for shift in range(1, MAX_SHIFT + 1)]


class GeluTwin:
    """R1 for negative values, R2 for the others."""

    @staticmethod
    def largest(x, dims):
        return x.amax().reshape(1)

    @staticmethod
    def quantize(x, scale, shift, q):
        low, high = (-x / scale).round().clamp(0, q - 1), (x / (scale * 2.0**shift)).round().clamp(0, q - 1)
        return torch.where(x < 0, -low * scale, high * (scale * 2.0**shift))

    @staticmethod
    def candidates(largest, q):
        def shift(scale_2):
            reach = float(scale_2) * (q - 1) / GELU_MINIMUM
            return max(0, math.floor(math.log2(reach))) if reach >= 1 else 0

        scales = [scale * (largest / q) for scale in fractions(largest)]
        return [(scale_2 / 2 ** shift(scale_2), shift(scale_2)) for scale_2 in scales]


def fractions(like):
    """What the candidates are fractions of the scale that covers the largest value."""
    return torch.arange(1, CANDIDATES + 1, dtype=like.dtype) * (BETA - ALPHA) / CANDIDATES + ALPHA


# A metric compares Ô with O, both [groups, rows, columns], G being O's gradient: [groups], the smaller the better.


def hessian(estimate, out, grad):
    return ((estimate - out) * grad).square().sum((1, 2))


def mse(estimate, out, grad):
    return (estimate - out).square().sum((1, 2))


def cosine(estimate, out, grad):
    return (1 - torch.cosine_similarity(estimate, out, dim=-1)).sum(1)


def pearson(estimate, out, grad):
    return cosine(estimate - estimate.mean(-1, True), out - out.mean(-1, True), grad)


class Search:
    """The scales of one site, `network.Site`, after it has gone forward and back."""

    def __init__(self, site, weight_bits, activation_bits, metric, formats, by_channel):
        """`formats`: those of A, by the last part of a site's name, where they are not uniform. `by_channel`: whether each
        output of a weight has a scale to itself."""
        self.site, self.metric = site, metric
        leaf = site.name.rsplit(".", 1)[-1]
        self.format_a = formats.get(leaf, Uniform)
        self.q_a = 2 ** (activation_bits - 1)
        self.q_b = 2 ** ((weight_bits if site.has_weight else activation_bits) - 1)
        # Q's, K's and V's third of a weight.
        self.weight_groups = 3 if leaf == "qkv" else 1
        if by_channel and site.has_weight:
            self.weight_groups = len(site.b)
        self.a, self.b, self.out, self.grad = site.a, site.b, site.out.detach(), site.out.grad
        self.bias = site.bias
        self.run()

    def quantize_a(self, a, scale, shift):
        per_head = not self.site.has_weight and self.format_a is Uniform
        return self.format_a.quantize(a, scale.view(-1, 1, 1) if per_head else scale, shift, self.q_a)

    def quantize_b(self, b, scale):
        if self.site.has_weight:
            return Uniform.quantize(b, scale.repeat_interleave(len(b) // self.weight_groups)[:, None], None, self.q_b)
        return Uniform.quantize(b, scale.view(-1, 1, 1), None, self.q_b)

    def scores(self, a, b, groups):
        """The score of each group that has a scale of the operand that is searched."""
        estimate = torch.nn.functional.linear(a, b, self.bias) if self.site.has_weight else a @ b

        def grouped(values):
            if self.site.has_weight:
                return values.reshape(-1, groups, values.shape[-1] // groups).transpose(0, 1)
            if groups > 1:
                values = values.transpose(0, 1)
            return values.reshape(groups, -1, values.shape[-1])

        return self.metric(grouped(estimate), grouped(self.out), grouped(self.grad))

    @torch.no_grad()
    def run(self):
        if self.site.has_weight:
            largest_b = self.b.abs().reshape(self.weight_groups, -1).amax(1)
            largest_a = self.format_a.largest(self.a, tuple(range(self.a.dim()))).reshape(1)
        else:
            largest_b = Uniform.largest(self.b, (0, 2, 3))
            largest_a = self.format_a.largest(self.a, (0, 2, 3))
        candidates_a = self.format_a.candidates(largest_a, self.q_a)
        candidates_b = Uniform.candidates(largest_b, self.q_b)
        self.scale_b, chosen = largest_b / self.q_b, None
        for _ in range(ROUNDS):
            b = self.quantize_b(self.b, self.scale_b)
            groups = len(largest_a)
            best_a, _ = best(candidates_a, lambda one: self.scores(self.quantize_a(self.a, *one), b, groups))
            self.scale_a = torch.stack([candidates_a[index][0][group] for group, index in enumerate(best_a)])
            self.shift = candidates_a[best_a[0]][1]
            a = self.quantize_a(self.a, self.scale_a, self.shift)
            groups = len(largest_b)
            best_b, scores = best(candidates_b, lambda one: self.scores(a, self.quantize_b(self.b, one[0]), groups))
            self.scale_b = torch.stack([candidates_b[index][0][group] for group, index in enumerate(best_b)])
            self.score = scores.sum()
            # Further rounds would find the same again.
            if chosen == (best_a, best_b):
                break
            chosen = best_a, best_b

    def quantize(self, a, b):
        return self.quantize_a(a, self.scale_a, self.shift), self.quantize_b(b, self.scale_b)


def best(candidates, scores):
    """Of each group the number of the best candidate, the first of equals, and its score."""
    all_scores = torch.stack([scores(candidate) for candidate in candidates])
    return all_scores.argmin(0).tolist(), all_scores.amin(0)


METRICS = {metric.__name__: metric for metric in (hessian, mse, cosine, pearson)}
TWINS = {"pv": SoftmaxTwin, "fc2": GeluTwin}
FORMATS = {"twin": TWINS, "uniform": {}, "channel": TWINS}
SETTINGS = [
    (8, "hessian", "twin"),
    (6, "hessian", "twin"),
    (4, "hessian", "twin"),
    (6, "mse", "twin"),
    (6, "cosine", "twin"),
    (6, "pearson", "twin"),
    (6, "hessian", "uniform"),
    (8, "cosine", "uniform"),
    (4, "hessian", "channel"),
]


def answers(network, images):
    """For every setting the scales and scores of each site, searched on what has gone through `network` and back last, and the
    logits of the quantized network on `images`."""
    answers = {"eval_input": images, "eval_logits": network.logits(images)}
    sites = network.sites
    for bits, metric, formats in SETTINGS:
        setting = f"w{bits}a{bits}/{metric}/{formats}"
        by_channel = formats == "channel"
        searches = [Search(site, bits, bits, METRICS[metric], FORMATS[formats], by_channel) for site in sites]
        for search in searches:
            name = f"{setting}/{search.site.name}"
            answers[f"{name}/A"], answers[f"{name}/B"] = search.scale_a, search.scale_b
            answers[f"{name}/score"] = search.score.reshape(1)
            if search.shift is not None:
                answers[f"{name}/m"] = torch.tensor([search.shift])
        for site, search in zip(sites, searches):
            site.quantize = search.quantize
        answers[f"{setting}/eval_logits"] = network.logits(images)
        for site in sites:
            site.quantize = None
    return answers
