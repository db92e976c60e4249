"""Slow, transparent versions of the estimators: loops, quadrature, all subsets, scipy's isotonic regression.

Each takes the rewards of one group as a list (valid ones only, unless said otherwise) and returns a list of raw
advantages in the mean convention, neither centred nor scaled.
"""

import math
from functools import cache
from itertools import combinations, pairwise

import numpy as np
from scipy import integrate, optimize, special, stats


@cache
def expected_max_normal(n):
    """c_n by adaptive quadrature over the density of the maximum."""

    def integrand(x):
        return x * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1)

    return integrate.quad(integrand, -12, 12, epsabs=1e-13, epsrel=1e-13, limit=400, points=[0, 2, 4])[0]


@cache
def tail_moments(fraction):
    """Mean and standard deviation of the upper fraction of a standard normal, from scipy's truncated normal."""
    if fraction >= 1:
        return 0.0, 1.0
    tail = stats.truncnorm(stats.norm.isf(fraction), np.inf)
    return tail.mean(), tail.std()


def tail_slope(target_n, fraction):
    """(c_N - h) / s."""
    mean, std = tail_moments(fraction)
    return (expected_max_normal(target_n) - mean) / std


def tail_size(n, fraction):
    return max(math.ceil(round(fraction * n, 9)), 2)


def tail_of(rewards, fraction):
    """Threshold, mean and variance (divisor k - 1) of the k largest, and k."""
    top = sorted(rewards, reverse=True)[: tail_size(len(rewards), fraction)]
    k = len(top)
    mean = math.fsum(top) / k
    return top[-1], mean, math.fsum((r - mean) ** 2 for r in top) / (k - 1), k


def tea(rewards, target_n, fraction):
    threshold, mean, variance, k = tail_of(rewards, fraction)
    if variance == 0:
        return [0.0] * len(rewards)
    slope = tail_slope(target_n, k / len(rewards))

    def shaped(u):
        if u < threshold:
            return 0.0
        return (u - threshold) + slope / (2 * math.sqrt(variance)) * ((u - mean) ** 2 - (threshold - mean) ** 2)

    return [len(rewards) / k * shaped(r) for r in rewards]


def jackknife_weights(sizes, order):
    """Minimum-norm solution of sum w = 1, sum w n^-l = 0, as a constrained optimum (Lagrange conditions)."""
    constraints = np.array([[float(n) ** -power for n in sizes] for power in range(order)])
    constraints /= constraints.max(axis=1, keepdims=True)
    j = len(sizes)
    kkt = np.block([[np.eye(j), constraints.T], [constraints, np.zeros((order, order))]])
    return np.linalg.solve(kkt, np.concatenate([np.zeros(j), [1.0], np.zeros(order - 1)]))[:j]


def prefix_tea(rewards, target_n, fraction, sizes, order, shrinkage):
    """For each rollout the tail of the n that follow it in a circle, at each n."""
    m = len(rewards)
    weights = jackknife_weights(sizes, order)
    result = []
    for i, own in enumerate(rewards):
        total = 0.0
        for n, weight in zip(sizes, weights, strict=True):
            prefix = [rewards[(i + step) % m] for step in range(1, n + 1)]
            threshold, mean, variance, t = tail_of(prefix, fraction)
            effective = t / n
            implied = tail_moments(effective)[1] ** 2 * np.var(prefix, ddof=1)
            variance = ((t - 1) * variance + shrinkage * implied) / (t - 1 + shrinkage)
            if variance == 0 or own < threshold:
                continue
            curvature = tail_slope(target_n, effective) / (2 * math.sqrt(variance))
            shaped = (own - threshold) + curvature * ((own - mean) ** 2 - (threshold - mean) ** 2)
            total += weight * n / t * shaped
        result.append(total)
    return result


def order_stat(rewards, rank_weights):
    """K (E[L | i in] - E[L | i out]) over all subsets of size K; weights for the best first."""
    m, size = len(rewards), len(rank_weights)

    def statistic(subset):
        ranked = sorted((rewards[j] for j in subset), reverse=True)
        return math.fsum(w * r for w, r in zip(rank_weights, ranked, strict=True))

    values = {subset: statistic(subset) for subset in combinations(range(m), size)}
    result = []
    for i in range(m):
        inside = [v for subset, v in values.items() if i in subset]
        outside = [v for subset, v in values.items() if i not in subset]
        result.append(size * (math.fsum(inside) / len(inside) - math.fsum(outside) / len(outside)))
    return result


def max_at_k(rewards, k):
    """The reward of the best: k (E[max of k | i in] - E[max of k - 1 of the others]), over all subsets."""
    m = len(rewards)
    result = []
    for i in range(m):
        others = [j for j in range(m) if j != i]
        inside = [max([rewards[i], *(rewards[j] for j in subset)]) for subset in combinations(others, k - 1)]
        baseline = 0.0
        if k > 1:
            smaller = [max(rewards[j] for j in subset) for subset in combinations(others, k - 1)]
            baseline = math.fsum(smaller) / len(smaller)
        result.append(k * (math.fsum(inside) / len(inside) - baseline))
    return result


def max_po(rewards, k):
    """What each adds to the subsets of k, less the mean of what the others add where it is left out."""
    m = len(rewards)

    def gain(i, group):
        others = [j for j in group if j != i]
        subsets = list(combinations(others, k - 1))
        total = 0.0
        for subset in subsets:
            best = max((rewards[j] for j in subset), default=0.0)
            total += max([rewards[i], *(rewards[j] for j in subset)]) - (best if k > 1 else 0.0)
        return total / len(subsets)

    result = []
    for i in range(m):
        rest = [j for j in range(m) if j != i]
        baseline = math.fsum(gain(j, rest) for j in rest) / (m - 1)
        result.append(k * (gain(i, range(m)) - baseline))
    return result


def pass_at_n(rewards, target_n, a, b):
    """The posterior mean of N (1 - p)^(N-1) by quadrature over the Beta posterior given the others."""
    m = len(rewards)
    result = []
    for own in rewards:
        s = sum(rewards) - own

        posterior = stats.beta(a + s, b + m - 1 - s)

        def weight(x, posterior=posterior):
            p = x * x  # takes the singularity of the density at 0 out
            return target_n * (1 - p) ** (target_n - 1) * posterior.pdf(p) * 2 * x

        value = integrate.quad(weight, 0, 1, points=[0.02, 0.1, 0.3], limit=500, epsabs=1e-13, epsrel=1e-11)[0]
        result.append(value * (own - s / (m - 1)))
    return result


def pass_at_n_fitted(groups, target_n, means, concentrations):
    """Weights from a mixture of Beta priors, each counted by its likelihood for the other prompts; (P, m) lists."""
    priors = [(mean * c, (1 - mean) * c) for c in concentrations for mean in means]

    def log_likelihood(group, a, b):
        # One outcome after the other, by the urn scheme: no Beta function.
        total, right, wrong = 0.0, a, b
        for outcome in group:
            total += math.log((right if outcome else wrong) / (right + wrong))
            right, wrong = right + outcome, wrong + 1 - outcome
        return total

    def weight(s, failures, a, b):
        # E[(1 - p)^(N-1)] under Beta(a + s, b + failures), N an integer: a product over further failures.
        a, b = a + s, b + failures
        return target_n * math.exp(math.fsum(math.log((b + j) / (a + b + j)) for j in range(target_n - 1)))

    result = []
    for p, group in enumerate(groups):
        evidence = [
            math.fsum(log_likelihood(other, a, b) for q, other in enumerate(groups) if q != p) for a, b in priors
        ]
        belief = [math.exp(e - max(evidence)) for e in evidence]
        row = []
        for own in group:
            s = sum(group) - own
            others = len(group) - 1
            mean = math.fsum(w * weight(s, others - s, *ab) for w, ab in zip(belief, priors, strict=True)) / sum(belief)
            row.append(mean * (own - s / others))
        result.append(row)
    return result


def pass_at_k_binary(rewards, k):
    """Pass@k Training from the groups themselves: every subset of k is a group whose reward is its best.

    A rollout's advantage is the mean standardised reward of the groups that it is in.
    """
    m = len(rewards)
    groups = list(combinations(range(m), k))
    values = [max(rewards[j] for j in group) for group in groups]
    mean = np.mean(values)
    std = np.std(values)
    if std == 0:
        return [0.0] * m
    return [
        float(np.mean([(v - mean) / std for group, v in zip(groups, values, strict=True) if i in group]))
        for i in range(m)
    ]


def isotonic(advantages, rewards):
    """Isotonic regression by scipy, in the order of the rewards, equal rewards pooled first."""
    levels = sorted(set(rewards))
    blocks = [[a for a, r in zip(advantages, rewards, strict=True) if r == level] for level in levels]
    fit = optimize.isotonic_regression([np.mean(b) for b in blocks], weights=[len(b) for b in blocks]).x
    value = dict(zip(levels, fit, strict=True))
    return [float(value[r]) for r in rewards]


def centred(values):
    mean = math.fsum(values) / len(values)
    return [v - mean for v in values]


def gaussian_gradient(advantages, rewards):
    """Per-prompt gradient estimates for (mu, log sigma) of standard normal rewards, shape (P, 2).

    The advantages' grand mean is taken out first: with the scores' expectation zero it only adds noise.
    """
    a = advantages - advantages.mean()
    return np.stack([(a * rewards).mean(axis=1), (a * (rewards**2 - 1)).mean(axis=1)], axis=1)


def gaussian_bias(estimator, m, target_n, num_prompts, seed, chunk=2000):
    """Bias of ``estimator(rewards)`` on standard normal rewards: mean, standard error, and per-prompt std, (2,)."""
    generator = np.random.default_rng(seed)
    gradients = []
    for _ in range(num_prompts // chunk):
        rewards = generator.standard_normal((chunk, m))
        gradients.append(gaussian_gradient(estimator(rewards), rewards))
    gradients = np.concatenate(gradients)
    std = gradients.std(axis=0, ddof=1)
    truth = np.array([1.0, expected_max_normal(target_n)])
    return gradients.mean(axis=0) - truth, std / math.sqrt(len(gradients)), std


def standardized(groups):
    """Each group minus its mean over its standard deviation, both shrunk to those of the batch; and the divisors."""
    means = [math.fsum(g) / len(g) for g in groups]
    stds = [
        math.sqrt(math.fsum((r - mean) ** 2 for r in g) / (len(g) - 1)) for g, mean in zip(groups, means, strict=True)
    ]

    def share(values, noise):
        # Of the distance to the mean, how much is noise.
        center = math.fsum(values) / len(values)
        total = math.fsum((v - center) ** 2 for v in values) / max(len(values) - 1, 1)
        between = total - math.fsum(noise) / len(noise)
        return [1.0 if between <= 0 else n / (between + n) for n in noise]

    logs = [math.log(s) for s in stds]
    center = math.fsum(logs) / len(logs)
    moved = share(logs, [0.5 / (len(g) - 1) for g in groups])
    scales = [math.exp(x + s * (center - x)) for x, s in zip(logs, moved, strict=True)]
    grand = math.fsum(means) / len(means)
    moved = share(means, [s**2 / len(g) for s, g in zip(stds, groups, strict=True)])
    result = []
    for g, mean, scale, s in zip(groups, means, scales, moved, strict=True):
        limit = 2.0 * scale / math.sqrt(len(g))
        target = mean - min(max(s * (mean - grand), -limit), limit)
        result.append([(r - target) / scale for r in g])
    return result, scales


def eb_bon(groups, target_n, means, concentrations):
    """Level by level: every distinct reward of the batch asks each rollout whether it exceeds it; (P, m) lists."""
    a, b = np.array([(mean * c, (1 - mean) * c) for c in concentrations for mean in means]).T
    levels = sorted({r for g in groups for r in g})
    result = [[0.0] * len(g) for g in groups]
    for level, following in pairwise(levels):
        above = [sum(r > level for r in g) for g in groups]
        evidence = np.zeros_like(a)
        for s, g in zip(above, groups, strict=True):
            evidence += special.betaln(a + s, b + len(g) - s) - special.betaln(a, b)
        # One prompt's share in all of them is taken out.
        belief = special.softmax(evidence * (len(groups) - 1) / len(groups))

        @cache
        def weight(s, others, belief=belief):
            # E[F^(N-1)] under Beta(a + s, b + others - s), N an integer: a product over further rollouts below.
            below = b + others - s
            product = np.ones_like(a)
            for j in range(target_n - 1):
                product *= (below + j) / (a + b + others + j)
            return target_n * float(belief @ product)

        for p, g in enumerate(groups):
            others = len(g) - 1
            for i, r in enumerate(g):
                s = above[p] - (r > level)
                result[p][i] += (following - level) * weight(s, others) * ((r > level) - s / others)
    return result
