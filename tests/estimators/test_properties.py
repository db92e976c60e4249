"""What docs/estimators.md says of the estimators: exact unbiasedness by enumeration, and that the page is current."""

import itertools
import re

import pytest
import torch

import tea
from benchmarks.estimators import reference
from tea.estimators.ladder import ladder_coefficients

F64 = torch.float64
LEVELS = torch.tensor([0.0, 1.0, 2.5], dtype=F64)
M = 5


def outcomes(levels):
    """Every group of M rollouts with those rewards, its probability, and the scores of a softmax of theta."""
    theta = torch.tensor([0.3, -0.2, -0.9][: len(levels)], dtype=F64, requires_grad=True)
    p = torch.softmax(theta, 0)
    groups = torch.tensor(list(itertools.product(range(len(levels)), repeat=M)))
    scores = torch.nn.functional.one_hot(groups, len(levels)) - p.detach()
    return theta, p, levels[groups], p.detach()[groups].prod(1), scores


def expected_best(p, levels, k):
    below = torch.cat((torch.zeros(1, dtype=F64), p.cumsum(0)))
    return (levels * (below[1:] ** k - below[:-1] ** k)).sum()


def check(estimate_of, value_of, levels=LEVELS):
    theta, p, rewards, probability, scores = outcomes(levels)
    (truth,) = torch.autograd.grad(value_of(p), theta)
    advantages = estimate_of(rewards)
    estimate = (probability[:, None] * (advantages[:, :, None] * scores).mean(1)).sum(0)
    torch.testing.assert_close(estimate, truth, rtol=1e-10, atol=1e-12)


EXACT = {
    "rloo": (tea.rloo_advantages, lambda p: (p * LEVELS).sum()),
    "dr_grpo": (tea.dr_grpo_advantages, lambda p: (p * LEVELS).sum() * (M - 1) / M),
    "max_at_k": (lambda r: tea.max_at_k_advantages(r, 3, center=False), lambda p: expected_best(p, LEVELS, 3)),
    "max_po": (lambda r: tea.max_po_advantages(r, 3), lambda p: expected_best(p, LEVELS, 3)),
    "order_stat": (lambda r: tea.order_stat_advantages(r, (1.0, 0.0, 0.0)), lambda p: expected_best(p, LEVELS, 3)),
    "bon_max_second": (
        lambda r: tea.bon_max_second_advantages(r, center=False),
        lambda p: expected_best(p, LEVELS, M) / M,
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_exactly_unbiased(name):
    check(*EXACT[name])


def test_ladder_is_unbiased_for_its_combination():
    rungs = (2, 4)
    low, high = ladder_coefficients(64, rungs, M)
    check(
        lambda r: tea.ladder_advantages(r, 64, rungs=rungs, monotone=False, center=False),
        lambda p: low * expected_best(p, LEVELS, 2) + high * expected_best(p, LEVELS, 4),
    )


def test_centring_max_at_k_afterwards_is_biased_and_by_how_much():
    """Less the group's mean, best of k is estimated times (m - 1) / m less the same of the baseline."""
    k = 3
    check(
        lambda r: tea.max_at_k_advantages(r, k),
        # Sum over the group of (E[max of k | i in] - E[max of k - 1 of the others]) is m (V_k - V_(k-1)), whose
        # gradient the mean carries once for every rollout.
        lambda p: expected_best(p, LEVELS, k) - k / M * (expected_best(p, LEVELS, k) - expected_best(p, LEVELS, k - 1)),
    )


@pytest.mark.parametrize("spec", tea.list_estimators(), ids=lambda spec: spec.name)
def test_every_line_names_a_test_that_exists(spec):
    path, function = reference.CLAIMS[spec.name].test.split("::")
    assert f"def {function}(" in (reference.ROOT / path).read_text()


def test_the_page_is_up_to_date():
    page = reference.PAGE.read_text()
    for name, table in (("properties", reference.properties()), ("authors", reference.comparison())):
        stored = re.search(rf"<!-- {name} -->\n\n(.*?)\n\n<!-- /{name} -->", page, re.DOTALL)[1]
        # Differences of the size of rounding are printed to one digit and may change with the machine.
        assert re.sub(r"\de-1\d", "0", stored) == re.sub(r"\de-1\d", "0", table)


@pytest.mark.parametrize("record", reference.differences(), ids=lambda r: f"{r['estimator']}-{r['source']}")
def test_authors_code_gives_the_same_but_for_the_named_convention(record):
    if not record["note"]:
        assert record["difference"] < 1e-11
    elif "1e-6" in record["note"] and "centred" not in record["note"]:
        assert record["difference"] < 1e-3
    elif "float32" in record["note"]:
        assert record["difference"] < 1e-5 * record["size"]


def test_conventions_explain_the_whole_difference():
    """What the notes say of the differences that are not small."""
    stored = {record["source"]: record for record in reference.differences()}
    rewards = {name: torch.tensor(r, dtype=F64) for name, r in reference.stored_rewards().items()}

    def theirs(source):
        return torch.tensor(stored[source]["advantages"], dtype=F64)

    def same(ours, source, tolerance=1e-11):
        torch.testing.assert_close(ours, theirs(source), rtol=0, atol=tolerance)

    same(8 * tea.tail_rl_advantages(rewards["nonnegative"]), "TailRL, reference implementation")
    plain = tea.bon_max_second_advantages(rewards["graded"], center=False)
    same(plain, "verl grpo_passk, without norm_adv_by_std_in_grpo")
    upper = tea.order_stat_advantages(rewards["graded"], (0.5, 0.5, 0.0, 0.0))  # ceil(0.3 * 4) = 2 of 4
    same(upper, "OrderGrad UpperTailMean:0.3, times K")
