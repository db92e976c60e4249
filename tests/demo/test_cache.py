import json

import pytest

from tea.demo.cache import Stage, read_record, run_cached, stage_keys


def stages(**changes):
    first = Stage("first", "make", "first", {"size": 1})
    second = Stage("second", "make", "second", {"size": 2}, {"input": "first"})
    third = Stage("third", "use", "third", {"size": 3})
    plan = {"first": first, "second": second, "third": third}
    for name, settings in changes.items():
        old = plan[name]
        plan[name] = Stage(old.name, old.kind, old.label, settings, old.needs)
    return list(plan.values())


def keys(seed=1, fingerprints=None, **changes):
    return stage_keys(stages(**changes), seed, fingerprints or {"make": 1, "use": 1})


def changed(other):
    return {name for name, key in keys().items() if other[name] != key}


def test_keys_change_with_what_the_result_depends_on():
    assert changed(keys()) == set()
    assert changed(keys(first={"size": 9})) == {"first", "second"}
    assert changed(keys(second={"size": 9})) == {"second"}
    assert changed(keys(seed=2)) == {"first", "second", "third"}
    assert changed(keys(fingerprints={"make": 1, "use": 2})) == {"third"}


def test_a_stage_takes_its_name_only_when_all_is_written(tmp_path):
    stage = stages()[0]

    def work(directory):
        assert not (tmp_path / "first").exists()
        (directory / "result.txt").write_text("done")
        return {"loss": 0.5}

    record = run_cached(tmp_path, stage, "k" * 64, 7, work)
    assert (tmp_path / "first" / "result.txt").read_text() == "done"
    assert read_record(tmp_path / "first") == record
    assert record["metrics"] == {"loss": 0.5}
    assert (record["key"], record["seed"], record["settings"]) == ("k" * 64, 7, {"size": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_killed_stage_goes_on_in_the_same_directory(tmp_path):
    stage = stages()[0]

    def killed(directory):
        (directory / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cached(tmp_path, stage, "a" * 64, 1, killed)
    assert read_record(tmp_path / "first") is None

    def resumed(directory):
        assert (directory / "half.txt").read_text() == "half"
        return {}

    run_cached(tmp_path, stage, "a" * 64, 1, resumed)
    assert (tmp_path / "first" / "half.txt").exists()


def test_what_another_key_left_behind_is_not_reused(tmp_path):
    stage = stages()[0]

    def killed(directory):
        (directory / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cached(tmp_path, stage, "a" * 64, 1, killed)
    run_cached(tmp_path, stage, "b" * 64, 1, lambda directory: {"empty": not list(directory.iterdir())})
    assert read_record(tmp_path / "first")["metrics"] == {"empty": True}
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_finished_stage_of_another_key_is_replaced_whole(tmp_path):
    stage = stages()[0]

    def write(name):
        def work(directory):
            (directory / name).write_text(name)
            return {}

        return work

    run_cached(tmp_path, stage, "a" * 64, 1, write("old"))
    run_cached(tmp_path, stage, "b" * 64, 1, write("new"))
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"new", "stage.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_record_that_cannot_be_read_is_no_record(tmp_path):
    assert read_record(tmp_path / "nothing") is None
    (tmp_path / "stage.json").write_text(json.dumps({"key": 1})[:-1])
    assert read_record(tmp_path) is None
