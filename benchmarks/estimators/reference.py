"""The reference page: what is proved of every estimator, and how far it is from its authors' code.

    python -m benchmarks.estimators.reference   # seconds; writes the generated sections of docs/estimators.md

What the table says of symmetry is measured here, on random groups; what it says of bias names the test that shows it.
authors.json holds the rewards and what the authors' public code makes of them, with its commit.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import tea
from benchmarks.record import replace_section, table
from tea.estimators import EstimatorSpec

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "estimators.md"
AUTHORS = Path(__file__).with_name("authors.json")
REQUIRED: dict[str, Any] = {"target_n": 64, "k": 3, "rank_weights": (0.5, 0.3, 0.2)}
BINARY = ("pass_at_n", "passk_binary", "max_rl")


@dataclass(frozen=True)
class Claim:
    """What cannot be read off the estimator by running it.

    Attributes:
        unbiased: For the gradient of what, exactly; or what is estimated, and how the bias falls.
        assumption: Under which that is best of N.
        fails: How it goes wrong.
        test: The test that backs the line, file and function.
    """

    unbiased: str
    assumption: str
    fails: str
    test: str


_EXACT = "tests/estimators/test_properties.py::test_exactly_unbiased"
CLAIMS: dict[str, Claim] = {
    "tea": Claim(
        "plug-in for best of N, bias O(1/m)",
        "Gaussian upper tail",
        "rewards just above the threshold are pushed down (project); no tail in 0/1 rewards",
        "tests/estimators/test_tail.py::test_bias_on_gaussian_rewards",
    ),
    "prefix_tea": Claim(
        "best of N, bias O(1/m^order)",
        "Gaussian upper tail",
        "noise: a short prefix has a tail of two; needs many prompts",
        "tests/estimators/test_prefix.py::test_bias_falls_to_second_order",
    ),
    "ladder": Claim(
        "sum of beta_k max@k, unprojected and uncentred",
        "best of k linear in c_k: Gaussian upper tail",
        "low rungs reward spread, bad responses included (project)",
        "tests/estimators/test_properties.py::test_ladder_is_unbiased_for_its_combination",
    ),
    "eb_bon": Claim(
        "best of N under a prior that the batch teaches",
        "prompts are alike once standardised",
        "few prompts: nothing but the grid of priors",
        "tests/estimators/test_empirical_bayes.py::test_alike_prompts_give_best_of_128_from_16",
    ),
    "pass_at_n": Claim(
        "direction of grad p; the weight of a prompt is a posterior mean",
        "0/1 rewards, Beta prior",
        "graded rewards are refused",
        "tests/estimators/test_binary.py::test_direction_is_unbiased",
    ),
    "max_at_k": Claim("best of k, uncentred", "none", "k ends at m; centred, a little towards best of k - 1", _EXACT),
    "max_po": Claim("best of k < m", "none", "k ends at m - 1", _EXACT),
    "order_stat": Claim("any L-statistic of K < m", "none", "K ends at m - 1", _EXACT),
    "max_rl": Claim(
        "log p to order m - 1 (uncentred: m)",
        "0/1 rewards",
        "negative rewards are refused; one success in m gives weight m",
        "tests/estimators/test_baselines.py::test_max_rl_is_unbiased_for_the_truncated_log_likelihood",
    ),
    "grpo": Claim(
        "plug-in for the mean, by group deviation",
        "N = 1",
        "collapses the spread that best of N lives on",
        "tests/estimators/test_baselines.py::test_grpo_is_trl_to_the_last_bit",
    ),
    "rloo": Claim("the mean", "N = 1", "as grpo, less", _EXACT),
    "dr_grpo": Claim("(m - 1) / m times the mean", "N = 1", "as grpo, less", _EXACT),
    "bon_max_mean": Claim(
        "plug-in, of best of m roughly",
        "N = m",
        "only the best rollout counts",
        "tests/estimators/test_baselines.py::test_bon_max_mean",
    ),
    "bon_max_second": Claim("best of m over m, uncentred", "N = m", "a tie for the best gives nothing", _EXACT),
    "cat_bon": Claim(
        "plug-in, of best of N by ranks",
        "m near N",
        "a good rollout below the mean is pushed down most",
        "tests/estimators/test_baselines.py::test_cat_bon",
    ),
    "rs_grpo": Claim(
        "plug-in for the entropic risk, bias O(1/m)",
        "beta fits the unit of the rewards",
        "saturates at the best rollout where beta is large",
        "tests/estimators/test_baselines.py::test_rs_grpo",
    ),
    "tail_rl": Claim(
        "plug-in for the integral of log P(R >= t), over m",
        "none",
        "the highest gap has the noise of one rollout",
        "tests/estimators/test_order.py::test_tail_rl_differentiates_the_log_tail_probability",
    ),
    "passk_binary": Claim(
        "GRPO over all subsets of k",
        "0/1 rewards, k <= m",
        "graded rewards are refused",
        "tests/estimators/test_binary.py::test_passk_over_all_groups",
    ),
}


def bind(spec: EstimatorSpec, **options: Any) -> Any:
    """The estimator with the required options of this page, and no scale."""
    needed = {name: REQUIRED[name] for name, p in spec.parameters.items() if p.default is p.empty}
    return tea.get_estimator(spec.name, **{**needed, "scale": "none", **options})


def draw(spec: EstimatorSpec, prompts: int = 500, m: int = 16) -> torch.Tensor:
    """Rewards that it takes, float64."""
    normal = torch.randn(prompts, m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (normal > 0.4).double() if spec.name in BINARY else normal


def measured(spec: EstimatorSpec) -> dict[str, str]:
    """Monotone, centred, scale and dependence on the order of sampling, by running it."""
    rewards = draw(spec)
    raw = bind(spec, center=False, monotone=False)(rewards)
    ordered = raw.gather(1, rewards.argsort(dim=1))
    steps = torch.where(rewards.sort(1).values.diff(dim=1) > 0, ordered.diff(dim=1), 0.0)
    twice = None if spec.name in BINARY and spec.name != "max_rl" else bind(spec, center=False)(2.0 * rewards)
    turned = bind(spec, center=False)(rewards.flip(1)).flip(1)
    plain = bind(spec, center=False)(rewards)
    scale = "0/1 only"
    if twice is not None:
        scale = "none" if torch.allclose(twice, plain) else "reward" if torch.allclose(twice, 2 * plain) else "its own"
    return {
        "monotone": "yes" if (steps > -1e-9).all() else "by projection",
        "centred": "by itself" if (raw.sum(1).abs() < 1e-9).all() else "afterwards",
        "scale": scale,
        "order": "no" if torch.allclose(turned, plain) else "yes",
    }


def properties() -> str:
    """The table of properties."""
    operations = json.loads((ROOT / "benchmarks/speed/results/operations.json").read_text())
    counts = {cell["name"]: cell["eager"] for cell in operations["cells"]}
    rows = []
    for spec in tea.list_estimators():
        claim, found = CLAIMS[spec.name], measured(spec)
        path = Path(inspect.getfile(spec.function)).resolve().relative_to(ROOT)
        test, function = claim.test.split("::")
        rows.append(
            [
                f"[`{spec.name}`](../{path})",
                *(claim.unbiased, claim.assumption),
                *(found[name] for name in ("monotone", "centred", "scale", "order")),
                str(counts.get(spec.name, "")),
                claim.fails,
                f"[{function}](../{test})",
            ]
        )
    header = ["", "unbiased for", "assumption", "monotone", "centred", "scale", "sampling order matters", "operations"]
    return table([*header, "how it fails", "shown by"], rows)


def stored_rewards() -> dict[str, Any]:
    """The shared rewards, by name."""
    return dict(json.loads(AUTHORS.read_text())["rewards"])


def differences() -> list[dict[str, Any]]:
    """One record per comparison with an author's code: the largest difference, and the largest of their advantages."""
    stored = json.loads(AUTHORS.read_text())
    records = []
    for peer in stored["peers"]:
        rewards = torch.tensor(stored["rewards"][peer["rewards"]], dtype=torch.float64)
        theirs = torch.tensor(peer["advantages"], dtype=torch.float64)
        ours = tea.get_estimator(peer["estimator"], **peer["options"])(rewards)
        records.append({**peer, "difference": float((ours - theirs).abs().max()), "size": float(theirs.abs().max())})
    return records


def comparison() -> str:
    """The table of differences."""
    rows = []
    for record in differences():
        options = ", ".join(f"{k}={v}" for k, v in record["options"].items())
        note = record["note"] or "none: rounding of the stored digits"
        rows.append(
            [
                f"`{record['estimator']}`" + (f" ({options})" if options else ""),
                record["source"],
                record["commit"][:7],
                f"{record['difference']:.0e}",
                f"{record['size']:.1f}",
                note,
            ]
        )
    return table(["ours", "theirs", "commit", "largest difference", "of at most", "convention that differs"], rows)


def main() -> None:
    replace_section(PAGE, "properties", "\n" + properties() + "\n")
    replace_section(PAGE, "authors", "\n" + comparison() + "\n")


if __name__ == "__main__":
    main()
