"""The index: names, options, errors, documentation."""

import inspect
import math
import re
from pathlib import Path

import pytest
import torch

import tea
from tea.estimators import EstimatorSpec

ROOT = Path(__file__).parents[2]
SPECS = tea.list_estimators()
NAMES = [spec.name for spec in SPECS]


def test_ours_and_the_peers_are_there():
    assert {"tea", "prefix_tea", "ladder", "pass_at_n", "max_at_k", "grpo", "rloo"} <= set(NAMES)
    peers = {"dr_grpo", "order_stat", "bon_max_mean", "bon_max_second", "cat_bon", "rs_grpo", "tail_rl", "passk_binary"}
    peers |= {"max_rl", "max_po"}
    assert peers <= set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_entry_is_documented(spec: EstimatorSpec):
    assert str(spec) == f"{spec.name}: {spec.summary} [{spec.source}]"
    assert len(str(spec)) <= 140
    assert "\n" not in str(spec)
    assert re.search(r"arXiv \d{4}\.\d{5}|ours", spec.source), "a paper, or ours"
    assert spec.function.__name__ == f"{spec.name}_advantages"
    assert getattr(tea, spec.function.__name__) is spec.function
    documentation = inspect.getdoc(spec.function)
    assert ".. math::" in documentation
    source = re.search(r"arXiv (\d{4}\.\d{5})|[Oo]urs", documentation)
    assert source, "the docstring names the source of the formula"
    test_file = re.search(r"``(tests/estimators/test_\w+\.py)``", documentation)
    assert test_file, "the docstring names the test that checks it"
    path = ROOT / test_file[1]
    assert path.exists()
    assert spec.function.__name__ in path.read_text()
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in documentation or "as in :func:" in documentation
    for option in spec.parameters:
        if option not in ("mask", "monotone", "center", "scale"):
            assert option in documentation, f"option {option} is undocumented"


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_entry_has_the_common_options_keyword_only(spec: EstimatorSpec):
    parameters = inspect.signature(spec.function).parameters
    assert next(iter(parameters)) == "rewards"
    for name in ("mask", "monotone", "center", "scale"):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["mask"].default is None
    assert parameters["center"].default is True
    assert "rewards" not in spec.parameters
    assert "mask" not in spec.parameters


def test_get_estimator_binds_options():
    rewards = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4, 16, dtype=torch.bool)
    mask[0, 3] = False
    estimator = tea.get_estimator("tea", target_n=64, tail_fraction=0.5, monotone=True)
    expected = tea.tea_advantages(rewards, 64, 0.5, monotone=True, mask=mask)
    assert torch.equal(estimator(rewards, mask=mask), expected)
    assert torch.equal(estimator(rewards, mask), expected)
    assert estimator.spec.name == "tea"
    assert estimator.options == {"target_n": 64, "tail_fraction": 0.5, "monotone": True}


def test_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown estimator 'prefix-tea', known are tea, .*did you mean 'prefix_tea'\?"
    ):
        tea.get_estimator("prefix-tea", target_n=16)
    with pytest.raises(ValueError, match=r"unknown estimator 'zzzz', known are (?!.*did you mean)"):
        tea.get_estimator_spec("zzzz")


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("tea", {"target_N": 16}, TypeError, r"has no option 'target_N', it has target_n.*did you mean 'target_n'"),
        ("tea", {}, TypeError, r"estimator 'tea' needs target_n"),
        ("grpo", {"target_n": 16}, TypeError, r"estimator 'grpo' has no option 'target_n'"),
        ("max_at_k", {}, TypeError, r"needs k"),
        ("max_at_k", {"k": 0}, ValueError, r"k must be an integer >= 1"),
        ("tea", {"target_n": 0}, ValueError, r"target_n must be a finite number >= 1"),
        ("tea", {"target_n": math.nan}, ValueError, r"target_n must be"),
        ("tea", {"target_n": 16, "tail_fraction": 0.0}, ValueError, r"tail_fraction must be in \(0, 1\]"),
        ("prefix_tea", {"target_n": 16, "tail_fraction": "auto"}, ValueError, r"in \(0, 1\], got 'auto'"),
        ("tea", {"target_n": 16, "scale": "sigma"}, ValueError, r"scale must be one of"),
        ("ladder", {"target_n": 16, "rungs": (4, 2)}, ValueError, r"rungs must be at least two strictly"),
        ("prefix_tea", {"target_n": 16, "order": 0}, ValueError, r"order must be"),
        ("prefix_tea", {"target_n": 16, "shrinkage": -1}, ValueError, r"shrinkage must be"),
        ("prefix_tea", {"target_n": 16, "prefix_sizes": (1, 2)}, ValueError, r"prefix_sizes must be"),
        ("pass_at_n", {"target_n": 16, "prior": (0, 1)}, ValueError, r"prior must be"),
        ("order_stat", {}, TypeError, r"needs rank_weights"),
        ("order_stat", {"rank_weights": ()}, ValueError, r"rank_weights must be a sequence of finite numbers"),
        ("order_stat", {"rank_weights": "cvar:1.5"}, ValueError, r"strictly between 0 and 1, got 'cvar:1.5'"),
        ("order_stat", {"rank_weights": "quantile:0"}, ValueError, r"strictly between 0 and 1"),
        ("order_stat", {"rank_weights": "quantile"}, ValueError, r"needs a level, as in quantile:0.25"),
        ("order_stat", {"rank_weights": "median:0.5"}, ValueError, r"median takes no level"),
        ("order_stat", {"rank_weights": "mode"}, ValueError, r"one of median, quantile:LEVEL, cvar:LEVEL, got 'mode'"),
        ("order_stat", {"rank_weights": "median", "size": 0}, ValueError, r"size must be an integer >= 1, got 0"),
        ("max_po", {"k": 0}, ValueError, r"k must be an integer >= 1"),
        ("rs_grpo", {"beta": 0.0}, ValueError, r"beta must be a finite number other than 0"),
        ("cat_bon", {"target_n": 0}, ValueError, r"target_n must be"),
        ("passk_binary", {"k": 0}, ValueError, r"k must be an integer"),
    ],
)
def test_bad_options_are_refused_without_rewards(name, options, error, message):
    with pytest.raises(error, match=message):
        tea.get_estimator(name, **options)


def test_none_where_it_is_the_default():
    assert tea.get_estimator("ladder", target_n=16, rungs=None).options["rungs"] is None


def test_list_is_a_copy():
    tea.list_estimators().clear()
    assert tea.list_estimators()


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_entry_has_a_row_in_the_reference(spec: EstimatorSpec):
    rows = re.findall(
        rf"^\| \[`{spec.name}`\]\(\.\./(tea/estimators/\w+\.py)\) \|",
        (ROOT / "docs" / "estimators.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 1
    assert Path(inspect.getsourcefile(spec.function)).relative_to(ROOT) == Path(rows[0])
