"""Slow, transparent versions of the best-of-N statistics: loops over all subsets, and quadrature."""

from itertools import combinations

import numpy as np
from scipy import integrate


def curve_over_subsets(select_by, value, n):
    """Mean over all subsets of size n of the value of the selected sample; ties averaged. One prompt."""
    outcomes = []
    for subset in combinations(range(len(select_by)), n):
        top = max(select_by[i] for i in subset)
        outcomes.append(np.mean([value[i] for i in subset if select_by[i] == top]))
    return float(np.mean(outcomes))


def product_over_disjoint_subsets(select_by, value, n):
    """Mean over ordered pairs of disjoint subsets of size n of the product of their selected values (no ties)."""
    indices = range(len(select_by))

    def selected(subset):
        return value[max(subset, key=lambda i: select_by[i])]

    products = [
        selected(first) * selected(second)
        for first in combinations(indices, n)
        for second in combinations(sorted(set(indices) - set(first)), n)
    ]
    return float(np.mean(products))


def expected_max(distribution, n):
    """E[max of n] for a frozen scipy distribution, by quadrature over the quantile function."""

    def integrand(u):
        return distribution.ppf(u ** (1.0 / n))

    return integrate.quad(integrand, 0.0, 1.0, limit=500)[0]
