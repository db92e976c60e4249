"""The benchmark's report on rows whose answers are known."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats

from benchmarks.training import ceiling
from benchmarks.training.loop import VERSION
from benchmarks.training.methods import METHODS
from benchmarks.training.report.__main__ import HERE, main
from benchmarks.training.report.aa import section_aa
from benchmarks.training.report.ablations import section_ablations
from benchmarks.training.report.common import NOT_RUN, compare, noise_line
from benchmarks.training.report.defaults import section_defaults
from benchmarks.training.report.diversity import section_diversity
from benchmarks.training.report.efficiency import rollouts_needed, section_efficiency
from benchmarks.training.report.figures import FIGURES
from benchmarks.training.report.gain import section_gain
from benchmarks.training.report.gold import section_gold
from benchmarks.training.report.intervals import Interval, bootstrap_interval, over_prompts, t_interval
from benchmarks.training.report.main_table import section_main
from benchmarks.training.report.mismatch import section_mismatch
from benchmarks.training.report.ranks import rank
from benchmarks.training.report.rates import section_rates
from benchmarks.training.report.results import Results, as_json, parent_of
from benchmarks.training.report.sections import report
from benchmarks.training.report.tasks import section_tasks
from benchmarks.training.run import LEARNING_RATES, PROMPTS, ROLLOUTS, M, N, key_of

RATE = LEARNING_RATES[1]
NS = [2**i for i in range(10)]
SEEDS = (1, 2, 3, 4, 5)
ENVIRONMENT = {
    "commit": "abc1234",
    "python": "3.11",
    "versions": {"torch": "2"},
    "machine": "two cores",
    "processor": "a CPU",
    "command": "python -m benchmarks.training.run",
    "time": "2026-01-01T00:00:00",
}


def row(task, method, seed, value, *, m=M, n=N, prompts=PROMPTS, rate=RATE, plan="main", gold=False):
    """Best-of-N is value + log2(N / 128); a base model's row where method is "base"."""
    updates = 100
    if method == "base":
        m = n = prompts = updates = 0
        rate = None
    curve = {str(k): value + float(np.log2(k / N)) for k in NS}
    noise = np.random.default_rng(seed).normal(size=64)
    return {
        "plan": plan,
        "task": task,
        "method": method,
        "m": m,
        "n": n,
        "prompts": prompts,
        "updates": updates,
        "seed": seed,
        "learning_rate": rate,
        "version": 1,
        "loop": VERSION,
        "curve": curve,
        "per_prompt": (value + noise - noise.mean()).tolist(),
        **({"gold": {k: v / 2 for k, v in curve.items()}} if gold else {}),
        "entropy": 0.5 if method != "base" else 1.0,
        "distinct": 0.25,
        "reward_std": 2.0 if method != "base" else 1.0,
        "bimodality": 0.4,
        "training_seconds": 1.0,
        "evaluation_seconds": 1.0,
        **ENVIRONMENT,
    }


# What a seed adds to every method; methods differ by exactly these offsets.
SEED_EFFECT = dict(zip((0, *SEEDS), np.random.default_rng(3).normal(0, 5, 6), strict=True))
OFFSETS = {"base": 0.0, "grpo": 0.5, "max_at_m": 1.0, "bon_max_second": 1.0, "tea_projected": 1.1, "eb_bon": 2.0}
TASKS = ("one", "two")


def main_rows(offsets=OFFSETS, jitter=0.0, seeds=(0, *SEEDS), tasks=TASKS):
    rng = np.random.default_rng(0)
    return [
        row(task, method, seed, SEED_EFFECT[seed] + offset + jitter * rng.normal(), gold=task == "one")
        for seed in seeds
        for task in tasks
        for method, offset in offsets.items()
    ]


def results(rows):
    return Results(rows)


def test_t_interval_is_scipys():
    x = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, 6, loc=x.mean(), scale=stats.sem(x))
    found = t_interval(x)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.error == pytest.approx(stats.sem(x))
    assert t_interval([]) is None
    alone = t_interval([3.0])
    assert (alone.mean, alone.half, alone.separate, alone.text()) == (3.0, None, False, "3.00")


def test_paired_differences_take_out_the_seed():
    rows = main_rows(jitter=0.1)
    found = compare(results(rows), "eb_bon", "grpo", "one")
    by_key = {(r["task"], r["method"], r["seed"]): r["curve"][str(N)] for r in rows}
    gaps = [by_key["one", "eb_bon", s] - by_key["one", "grpo", s] for s in SEEDS]
    expected = stats.ttest_1samp(gaps, 0.0).confidence_interval()
    gap = found["difference"]
    assert gap.mean - gap.half == pytest.approx(expected.low)
    assert gap.mean + gap.half == pytest.approx(expected.high)
    assert gap.separate
    assert found["separate_unpaired"]  # seeds differ by 5, methods by 1.5: it is about gains over the base model


def test_only_shared_seeds_are_paired_and_seed_0_never_counts():
    rows = [r for r in main_rows() if not (r["method"] == "grpo" and r["seed"] in (2, 5))]
    gap = compare(results(rows), "eb_bon", "grpo", "one")["difference"]
    assert gap.count == 3
    assert gap.mean == pytest.approx(1.5)
    pair = results(main_rows(seeds=(0,)) + main_rows(seeds=(1,)))
    alone = compare(pair, "tea_projected", "grpo", "one")["difference"]
    assert alone.count == 1


def test_interval_over_prompts_is_stratified_by_seed():
    rng = np.random.default_rng(1)
    ours = {s: rng.normal(s, 1, 64) for s in SEEDS}
    other = {s: rng.normal(0, 2, 64) for s in SEEDS}
    found = over_prompts(ours, other)
    gaps = [ours[s] - other[s] for s in SEEDS]
    assert found.mean == pytest.approx(np.mean(gaps))
    error = np.sqrt(sum(stats.sem(gap) ** 2 for gap in gaps)) / 5
    assert found.half == pytest.approx(stats.t.ppf(0.975, 5 * 63) * error)
    assert over_prompts(ours, {}) is None


def test_bootstrap_resamples_clusters_and_is_the_same_every_time():
    clusters = [np.full((2, 1), float(i)) for i in range(5)]
    low, high = bootstrap_interval(clusters)
    rng = np.random.default_rng(5)
    means = np.arange(5)[rng.integers(5, size=(20000, 5))].mean(1)
    assert low[0] == pytest.approx(np.quantile(means, 0.025), abs=0.2)
    assert high[0] == pytest.approx(np.quantile(means, 0.975), abs=0.2)
    again = bootstrap_interval(clusters)
    assert (again[0] == low).all()
    assert (again[1] == high).all()
    assert bootstrap_interval(clusters[:1]) is None


def test_ranks():
    ranks = rank(results(main_rows()))
    assert ranks.blocks == 10
    of = dict(zip(ranks.methods, ranks.mean, strict=True))
    assert of == {"eb_bon": 1.0, "tea_projected": 2.0, "max_at_m": 3.5, "bon_max_second": 3.5, "grpo": 5.0}
    assert ranks.best(["tea_projected", "eb_bon"]) == "eb_bon"
    gap = ranks.difference("eb_bon", "grpo")
    assert (gap.mean, gap.half, gap.separate) == (4.0, 0.0, True)
    assert not ranks.difference("max_at_m", "bon_max_second").separate
    assert rank(results(main_rows()), [0]).best(["tea_projected", "grpo"]) == "tea_projected"


def test_a_method_with_few_runs_does_not_take_the_blocks_from_the_others():
    rows = [*main_rows(), row("one", "cat_bon", 1, 0.0)]
    ranks = rank(results(rows))
    assert "cat_bon" not in ranks.methods
    assert ranks.blocks == 10


def test_rows_are_selected_by_what_they_are_not_by_plan():
    rows = main_rows()
    for r in rows:
        if r["method"] == "max_at_m":
            r["plan"] = "headroom"
    elsewhere = [
        row("one", "max_at_m", 1, 99.0, m=4, prompts=ROLLOUTS // 4),
        row("one", "max_at_m", 1, 99.0, n=512),
        row("one", "max_at_m", 1, 99.0, rate=LEARNING_RATES[0]),
    ]
    found = results(rows + elsewhere).values("one", "max_at_m")
    assert found == {s: pytest.approx(SEED_EFFECT[s] + 1.0) for s in SEEDS}


def test_the_rate_that_seed_0_chose_counts():
    better = [row("one", "tea_projected", 0, 99.0, rate=LEARNING_RATES[-1])]
    other = [row("one", "tea_projected", s, 7.0, rate=LEARNING_RATES[-1]) for s in SEEDS]
    assert results(main_rows() + better + other).values("one", "tea_projected") == dict.fromkeys(SEEDS, 7.0)
    text, found = section_rates(results(main_rows() + better))
    assert found["rates"]["tea_projected"]["one"] == LEARNING_RATES[-1]
    assert f"{LEARNING_RATES[-1]:g} ↑ (2 tried)" in text


def test_constant_offset_wins_everywhere():
    jitter = main_rows(jitter=0.05)
    text, found = section_gain(results(jitter))
    assert found["best_of_ours"] == "eb_bon"
    for duel in found["duels"].values():
        assert duel["counts"] == [2, 0, 0]
    assert found["over_grpo"]["eb_bon"]["one"]["difference"].mean == pytest.approx(1.5, abs=0.15)
    # A unit is what the base model gains from N = 1 to 128: 7 here.
    assert found["over_grpo"]["eb_bon"]["normalised"].mean == pytest.approx(1.5 / 7, abs=0.02)
    assert "| grpo | 2 / 0 / 0 | one, two |  | 2 of 2 | 2 |" in text
    text, numbers = section_main(results(jitter))
    assert numbers["methods"]["eb_bon"]["tasks"]["one"]["with_best"]
    assert not numbers["methods"]["tea_projected"]["tasks"]["one"]["with_best"]
    assert "| eb_bon | ours | **" in text
    texts, _ = report(results(jitter))
    assert "eb_bon over GRPO: higher mean on 2 of 2 tasks" in texts["verdict"]
    assert "is the same one" in texts["verdict"]


def test_losing_is_said_too():
    texts, summary = report(results(main_rows({**OFFSETS, "grpo": 9.0}, jitter=0.05)))
    assert summary["verdict"]["best_over_grpo"]["losses"] == ["one", "two"]
    assert summary["verdict"]["best_in_rank"]["losses"] == ["grpo"]
    assert "higher mean on 0 of 2 tasks" in texts["verdict"]
    assert "below 0 on 2 (one, two)" in texts["verdict"]
    assert "grpo on one (-" in texts["verdict"]


def test_unpaired_intervals():
    """Of the gains over the base model: a seed's task may be as easy as it likes, what differs between runs may not."""
    offsets = (("base", 0.0), ("grpo", 0.5), ("tea_projected", 1.0))
    for noise, apart in ((0.01, True), (1.0, False)):
        rng = np.random.default_rng(0)
        rows = [row("one", m, s, 100 * s + o + noise * rng.normal()) for s in SEEDS for m, o in offsets]
        assert compare(results(rows), "tea_projected", "grpo", "one")["separate_unpaired"] is apart


def test_a_a():
    text, found = section_aa(results(main_rows()))
    assert found["includes_0"] == [2, 2]
    assert found["tasks"]["one"]["gaps"] == [0.0] * 5
    assert "2 of 2 intervals over seeds include 0" in text
    shifted = [
        {**r, "curve": {k: v + 1 for k, v in r["curve"].items()}} if r["method"] == "max_at_m" else r
        for r in main_rows(jitter=0.01)
    ]
    text, found = section_aa(results(shifted))
    assert found["includes_0"] == [0, 2]
    assert found["tasks"]["two"]["mean"] == pytest.approx(1.0, abs=0.05)
    assert "0 of 2 intervals" in text
    assert "which leaves out 0" in text
    assert "Noise floor" in noise_line(results(shifted))


def test_headroom():
    rng = np.random.default_rng(2)
    gaps = {s: 3.0 + 0.1 * rng.normal() for s in (1, 2, 3)}
    rows = main_rows()
    rows += [row("one", "oracle", s, SEED_EFFECT[s] + 1.0 + gaps[s], m=N) for s in gaps]
    rows += [row("one", "max_at_m", s, SEED_EFFECT[s], m=4) for s in gaps]
    text, found = section_tasks(results(rows))
    error = stats.sem([*gaps.values()])
    over_16, over_4 = found["tasks"]["one"]["headroom"][M], found["tasks"]["one"]["headroom"][4]
    assert over_16["difference"].mean == pytest.approx(np.mean([*gaps.values()]))
    assert over_16["standard_error"] == pytest.approx(error)
    assert over_16["ratio"] == pytest.approx(np.mean([*gaps.values()]) / error)
    assert over_4["difference"].mean == pytest.approx(np.mean([*gaps.values()]) + 1.0)
    assert found["tasks"]["two"]["headroom"][M]["difference"] is None
    assert "| two |" in text


def test_mismatch_is_read_at_the_n_that_is_trained_for():
    where = {"m": 64, "n": 512, "prompts": ROLLOUTS // 64, "plan": "mismatch"}
    rows = main_rows()
    rows += [row("one", "max_at_m", s, SEED_EFFECT[s], **where) for s in SEEDS]
    rows += [row("one", "eb_bon", s, SEED_EFFECT[s] + 0.25, **where) for s in SEEDS]
    text, found = section_mismatch(results(rows))
    of = next(x for x in found["differences"] if (x["m"], x["n"], x["method"]) == (64, 512, "eb_bon"))
    assert of["tasks"]["one"].mean == pytest.approx(0.25)
    assert of["tasks"]["two"] is None
    assert of["normalised"].mean == pytest.approx(0.25 / 7)
    assert "| 64, 512 | eb_bon |" in text
    assert "(1 tasks)" in text


def test_efficiency():
    rows = main_rows()
    for m, value in ((4, 0.0), (64, 1.9), (128, 2.5)):
        rows += [row("one", "grpo", s, SEED_EFFECT[s] + value + 0.2 * (s - 2), m=m) for s in (1, 2, 3)]
    text, found = section_efficiency(results(rows))
    needed = found["needed"]["grpo"]["one"]
    assert (needed["mean"], needed["interval"], needed["total"]) == (128, 64, 128 * PROMPTS * 100)
    assert found["needed"]["max_at_m"]["one"]["mean"] is None
    assert "| grpo | 128 (64) |" in text
    assert "none up to 16" in text
    # The mean is over the seeds that all have, so that rows can be compared.
    mean = np.mean([SEED_EFFECT[s] + 2.0 for s in (1, 2, 3)])
    assert found["values"]["eb_bon"][M]["one"]["mean"].mean == pytest.approx(mean)


def test_methods_on_fewer_seeds_do_not_take_seeds_from_others():
    rows = [*main_rows(), row("one", "tail_rl", 1, SEED_EFFECT[1] + 0.25)]
    text, found = section_main(results(rows))
    assert len(found["methods"]["max_at_m"]["tasks"]["one"]["seeds"]) == len(SEEDS)
    assert "tail_rl" not in found["methods"]
    assert found["fewer_seeds"]["tail_rl"]["tasks"]["one"].mean == pytest.approx(0.25 - OFFSETS["max_at_m"])
    assert "| tail_rl | 1 |" in text


def test_rollouts_needed():
    better, unclear, worse = (Interval(*x, 5) for x in ((0.1, 0.05), (-0.1, 0.2), (-0.1, 0.05)))
    found = rollouts_needed({4: worse, 16: unclear, 64: better})
    assert (found["mean"], found["interval"]) == (64, 16)
    assert rollouts_needed({4: worse})["mean"] is None


def test_ablations_are_compared_with_their_parent():
    names = ("eb_bon, uncentred", "prefix_tea_published, order 1", "tea_projected, fraction 0.5")
    rows = main_rows({**OFFSETS, "prefix_tea_published": 0.0})
    rows += [row("one", name, s, SEED_EFFECT[s] - 1.0, plan="ablations") for name in names for s in (1, 2, 3)]
    text, found = section_ablations(results(rows))
    parents = {name: of["parent"] for name, of in found.items()}
    assert parents == {names[0]: "eb_bon", names[1]: "prefix_tea_published", names[2]: "tea_projected"}
    assert found[names[0]]["tasks"]["one"].mean == pytest.approx(-3.0)
    assert found[names[1]]["tasks"]["one"].mean == pytest.approx(-1.0)
    assert "| centring | eb_bon, uncentred | eb_bon | **-3.00" in text
    assert all(parent_of(name) in METHODS for name in METHODS)


def test_diversity_and_gold():
    _, found = section_diversity(results(main_rows()))
    tea = found["tea_projected"]["all"]
    assert (tea["entropy"].mean, tea["distinct"].mean, tea["reward_std"].mean) == (0.5, 0.25, 2.0)
    assert tea["best_of_1"].mean == pytest.approx(1.1 / 7)
    text, found = section_gold(results(main_rows()))
    assert [*found] == ["one"]
    assert found["one"]["eb_bon"]["gold_over_grpo"].mean == pytest.approx(0.75)
    assert "`one`: gold" in text


def test_partial_data():
    nothing, _ = report(results([]))
    assert set(nothing.values()) == {NOT_RUN}
    for rows in (
        main_rows(seeds=(0,)),
        [row("one", "base", 1, 0.0)],
        [row("one", "tea_projected", 1, 0.0)],
        main_rows(seeds=(1,), tasks=("one",)),
        [*main_rows(seeds=(1, 2)), row("three", "eb_bon", 3, 0.0)],
    ):
        texts, summary = report(results(rows))
        json.dumps(as_json(summary), allow_nan=False)
        assert texts["ablations"] == NOT_RUN
        assert "nan" not in "".join(texts.values())


def test_a_seed_that_is_still_running_is_not_averaged_with_whole_ones():
    rows = [r for r in main_rows() if (r["task"], r["seed"]) != ("two", 5)]
    found = results(rows).normalised("tea_projected", "grpo")
    assert (found.count, found.tasks) == (4, 2)


def test_blind_seeds_are_reported_and_the_others_beside_them_for_the_defaults():
    rows = [*main_rows(seeds=(0, *SEEDS)), *(row("catalog", "grpo", seed, 1.0) for seed in (1, 6))]
    for seed in (6, 7):
        SEED_EFFECT[seed] = float(seed)
        rows += main_rows({**OFFSETS, "tea_projected": -5.0}, seeds=(seed,))
    texts, summary = report(results(rows))
    assert summary["runs"]["seeds"] == [6, 7]
    assert summary["runs"]["tasks"] == list(TASKS)
    assert summary["gain"]["over_grpo"]["tea_projected"]["one"]["difference"].mean == pytest.approx(-5.5)
    (of,) = [of for of in summary["defaults"]["defaults"] if of["method"] == "tea_projected"]
    assert of["tasks"]["one"].mean == pytest.approx(0.1)
    assert of["tasks"]["one"].count == len(SEEDS)
    (of,) = [of for of in summary["defaults"]["blind"]["defaults"] if of["method"] == "tea_projected"]
    assert (of["tasks"]["one"].mean, of["tasks"]["one"].count) == (pytest.approx(-6.0), 2)
    assert "seeds 6, 7;" in texts["main"]
    assert "seeds 1, 2, 3, 4, 5, 6, 7;" in texts["defaults"]
    assert "catalog" in texts["held_out"]
    assert "catalog" not in texts["main"]


def test_longer_runs_are_compared_at_the_same_updates():
    rows = main_rows(tasks=("venture",))
    for seed in SEEDS:
        for method, value in (("tea_projected", 3.0), ("tea_published", 5.0)):
            rows.append({**row("venture", method, seed, SEED_EFFECT[seed] + value), "updates": 300})
    text, found = section_defaults(results(rows))
    assert [(of["updates"], of["difference"].mean) for of in found["longer"] if of["difference"]] == [
        (300, pytest.approx(-2.0))
    ]
    assert "| venture | 300 | tea_published |" in text


def test_fiellers_interval_covers_the_ratio():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        under = rng.normal(2.0, 1.0, 10)
        over = 0.6 * under + rng.normal(0.0, 0.5, 10)
        low, high = ceiling.ratio_interval(over, under) or (-np.inf, np.inf)
        inside += low <= 0.6 <= high
    assert 0.935 < inside / 2000 < 0.965
    assert ceiling.ratio_interval([1.0, 2.0], [1.0, -1.0]) is None
    assert ceiling.ratio_interval([1.0], [1.0]) is None


def test_the_share_of_the_ceiling(monkeypatch):
    """What is won over what there is to win; a method whose efficiency is known beside it."""
    rows = main_rows({**OFFSETS, "psi_oracle": 3.0, "ladder_memory": 1.5}, jitter=0.01)
    monkeypatch.setattr(ceiling, "base_rewards", lambda task, seed: np.random.default_rng(seed).normal(size=(8, 256)))
    entries = {(of["task"], of["method"]): of for of in ceiling.measure(results(rows))}
    of = entries["one", "eb_bon"]
    assert of["share"]["max_at_m"]["mean"] == pytest.approx(0.5, abs=0.02)
    low, high = of["share"]["max_at_m"]["interval"]
    assert low < 0.5 < high < low + 0.1
    assert of["share"]["grpo"]["mean"] == pytest.approx(1.5 / 2.5, abs=0.02)
    assert entries["one", "ladder_memory"]["efficiency"] is None
    assert entries["one", "max_at_m"]["share"]["grpo"]["mean"] == pytest.approx(0.5 / 2.5, abs=0.02)
    assert entries["one", "grpo"]["share"]["max_at_m"]["mean"] == pytest.approx(-0.25, abs=0.02)
    # On Gaussian rewards the mean is the wrong thing to look at.
    assert entries["one", "max_at_m"]["efficiency"] > entries["one", "grpo"]["efficiency"]
    same, pairs = ceiling.agreement([*entries.values()])
    assert pairs == 2 * 6
    assert 0 < same <= pairs
    text = ceiling.render([*entries.values()], results(rows), {**ENVIRONMENT})
    assert f"two put {same} in the same order" in text


def test_writes_the_same_files_every_time(tmp_path):
    rows = main_rows(jitter=0.1)
    rows += [row("one", "oracle", s, SEED_EFFECT[s] + 3.0, m=N, gold=True) for s in (1, 2, 3)]
    rows += [row("one", "grpo", s, SEED_EFFECT[s], m=64) for s in (1, 2, 3)]
    assert len({key_of(r) for r in rows}) == len(rows)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    written = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(HERE / "README.md", folder)
        main(["--rows", str(path), "--folder", str(folder)])
        written.append({f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()})
    assert written[0] == written[1]
    assert {f.name for f in written[0]} == {
        "README.md",
        "summary.json",
        *(f"{name}.png" for name in FIGURES),
    }
    readme = (tmp_path / "a" / "README.md").read_text()
    assert "![curves](figures/curves.png)" in readme
    assert "commit abc1234" in readme
    assert readme.count("Not run yet.") == 2  # the ablations and the held-out tasks


def test_print_writes_nothing(tmp_path, capsys):
    path = tmp_path / "quick.jsonl"
    rows = [row(t, m, s, 0.1 * s + o) for t in TASKS for s in (1, 2) for m, o in OFFSETS.items()]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    main(["--rows", str(path), "--print"])
    assert "## verdict" in capsys.readouterr().out
    assert [*tmp_path.iterdir()] == [path]
