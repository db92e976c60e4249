"""Every method of the benchmark of supervised relatives trains, and its table compares each with its twin."""

import json

import pytest

from benchmarks.sft import run
from benchmarks.training import policy


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A base model that has hardly learnt, and one step for each method."""
    from benchmarks.training.task import Task

    monkeypatch.setattr(policy, "CACHE", tmp_path)
    monkeypatch.setattr(Task, "pretraining_steps", 20)
    monkeypatch.setattr(run, "EPOCHS", 1)
    monkeypatch.setattr(run, "BATCH", 512)
    monkeypatch.setattr(run, "SAMPLES", 4)


def test_every_method_trains(small):
    for question, (_, tuned_for, methods) in run.QUESTIONS.items():
        curves = []
        for method in methods:
            row = run.execute(question, method, 1, None if method == "base" else 1e-2)
            assert json.loads(json.dumps(row))["curve"].keys() >= {str(tuned_for), *map(str, run.SHOWN)}
            curves.append(tuple(row["curve"].values()))
        assert len(set(curves)) == len(curves)  # all have moved, and differently


def test_the_table_compares_each_with_its_twin():
    rows = [
        {
            **{"method": method, "seed": seed, "learning_rate": rate, "distinct": 0.5},
            "curve": dict.fromkeys(("1", "16", "128"), value),
        }
        for method, rate, value in (("base", None, 0.1), ("SFT", 1e-3, 0.25), ("pass@N SFT", 3e-4, 0.75))
        for seed in run.SEEDS
    ]
    text = run.render(
        rows, "demonstrations", {"commit": "x", "python": "3", "versions": {}, "machine": "m", "processor": "p"}
    )
    (line,) = [line for line in text.splitlines() if line.startswith("| pass@N SFT")]
    assert line.count("0.750") == 3
    assert line.count("+0.500") == 2
