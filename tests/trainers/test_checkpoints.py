"""Checkpoints are complete or absent, and the last complete one is there until the next is."""

import errno
import json
import os
import shutil

import pytest
import torch

from tea.trainers import AdvantageTrainer, resumable
from tea.trainers.checkpoints import (
    CheckpointError,
    list_checkpoints,
    newest_complete,
    publish,
    rotate,
    what_is_missing,
    write_manifest,
)

SAVES = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}


def make(run_dir, step, content="weights", manifest=True):
    folder = run_dir / f"checkpoint-{step}"
    (folder / "shards").mkdir(parents=True)
    (folder / "shards" / "0.bin").write_text(content)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if manifest:
        write_manifest(folder, step=step)
    return folder


def test_newest_complete_by_step_and_what_was_skipped(tmp_path):
    for step in (9, 10, 100, 20):
        make(tmp_path, step)
    make(tmp_path, 3, manifest=False)
    (tmp_path / "checkpoint-5.replaced").mkdir()
    (tmp_path / "checkpoint-final").mkdir()
    (tmp_path / "checkpoint-200").write_text("not a folder")
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in (3, 9, 10, 20, 100)]
    assert newest_complete(tmp_path) == (tmp_path / "checkpoint-100", {})
    (tmp_path / "checkpoint-100" / "shards" / "0.bin").unlink()
    (tmp_path / "checkpoint-20" / "shards" / "0.bin").write_text("weigh")
    (tmp_path / "checkpoint-10" / "manifest.json").write_text('{"format": 1, "fil')
    (tmp_path / "checkpoint-9" / "trainer_state.json").write_text("")
    found, skipped = newest_complete(tmp_path)
    assert found == tmp_path / "checkpoint-3"
    assert skipped == {
        "checkpoint-100": "shards/0.bin is missing",
        "checkpoint-20": "shards/0.bin has 5 of 7 bytes",
        "checkpoint-10": "manifest.json is damaged",
        "checkpoint-9": "trainer_state.json has 0 of 18 bytes",
    }
    (tmp_path / "checkpoint-3" / "optimizer.pt").write_text("")
    assert what_is_missing(tmp_path / "checkpoint-3") == "optimizer.pt is empty"
    (tmp_path / "checkpoint-3" / "optimizer.pt").unlink()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text("[]")
    assert what_is_missing(tmp_path / "checkpoint-3") == "trainer_state.json is damaged"
    with pytest.raises(
        CheckpointError, match=r"no complete checkpoint to go on from \(checkpoint-100: .*to begin anew"
    ):
        newest_complete(tmp_path)
    assert newest_complete(tmp_path / "elsewhere") == (None, {})


def test_publish_replaces_and_rotate_keeps(tmp_path):
    old = make(tmp_path, 2, "old")
    (tmp_path / "other").mkdir()
    new = make(tmp_path / "other", 2, "new")
    publish(new, old)
    assert (old / "shards" / "0.bin").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "other"]
    for step in (4, 6, 8):
        make(tmp_path, step)
    rotate(tmp_path, None, set())
    rotate(tmp_path, 0, set())
    assert len(list_checkpoints(tmp_path)) == 4
    rotate(tmp_path, 2, {str(tmp_path / "checkpoint-8"), None, str(tmp_path / "checkpoint-4")})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-8"]
    rotate(tmp_path, 1, {str(tmp_path / "checkpoint-8"), str(tmp_path / "checkpoint-4")})
    assert len(list_checkpoints(tmp_path)) == 2


def test_a_checkpoint_lists_all_that_is_in_it(build, tmp_path):
    trainer = build(AdvantageTrainer, **{**SAVES, "save_total_limit": 2}, output_dir=str(tmp_path))
    trainer.train()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-4"]
    assert not (tmp_path / ".partial").exists()
    for folder in list_checkpoints(tmp_path):
        manifest = json.loads((folder / "manifest.json").read_text())
        files = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
        del files["manifest.json"]
        assert manifest["files"] == files
        assert {"model.safetensors", "optimizer.pt", "trainer_extra_state_0.pt", "rng_state.pth"} <= set(files)
        assert manifest["run"]["estimator"] == {
            "name": "grpo",
            "scale": "group",
            "monotone": False,
            "normalize_advantages": "none",
            "target_n_schedule": "constant",
            "target_n_start": 4,
        }
        assert manifest["run"]["data"]["rows"] == 8


def test_best_checkpoint_is_kept_under_its_own_name(build, tmp_path):
    """It is the first of four; the state names where it is, not where it was written."""
    trainer = build(
        AdvantageTrainer,
        **{**SAVES, "save_total_limit": 1, "eval_strategy": "steps", "eval_steps": 1},
        metric_for_best_model="reward",
        load_best_model_at_end=True,
        output_dir=str(tmp_path),
    )
    measured = iter([3.0, 1.0, 2.0, 2.5])
    evaluate = trainer.evaluate
    trainer.evaluate = lambda *args, **kwargs: {**evaluate(*args, **kwargs), "eval_reward": next(measured)}
    trainer.train()
    best = str(tmp_path / "checkpoint-1")
    assert trainer.state.best_model_checkpoint == best
    for folder in list_checkpoints(tmp_path):
        assert json.loads((folder / "trainer_state.json").read_text())["best_model_checkpoint"] == best
    # transformers itself deletes all but the best at the end, with save_total_limit=1.
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1"]


def test_auto_skips_a_broken_one_and_says_so(build, tmp_path):
    run = str(tmp_path / "run")
    build(AdvantageTrainer, **SAVES, output_dir=run).train()
    whole = build(AdvantageTrainer, **SAVES, output_dir=str(tmp_path / "whole"))
    whole.train()
    (tmp_path / "run" / "checkpoint-4" / "trainer_state.json").unlink()
    (tmp_path / "run" / "checkpoint-3" / "optimizer.pt").write_bytes(b"")
    resumed = build(AdvantageTrainer, **SAVES, output_dir=run)
    broken = (
        r"resuming from checkpoint-2; .*checkpoint-4: trainer_state.json is missing; checkpoint-3: optimizer.pt has 0"
    )
    with pytest.warns(UserWarning, match=broken):
        resumed.train(resume_from_checkpoint="auto")
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    # Those that were broken have been replaced on the way.
    assert newest_complete(run)[0].name == "checkpoint-4"
    assert not newest_complete(run)[1]
    (tmp_path / "run" / "checkpoint-3" / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"checkpoint-3' cannot be resumed from: model.safetensors is missing; 'auto'"
    ):
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    shutil.rmtree(run)
    with pytest.raises(CheckpointError, match="has no checkpoint to resume from"):
        resumed.train(resume_from_checkpoint=True)
    assert resumed._find_checkpoint("auto") is None


def test_model_only_checkpoints_are_not_resumed_from(build, tmp_path):
    options = {**SAVES, "max_steps": 2, "save_only_model": True, "output_dir": str(tmp_path)}
    build(AdvantageTrainer, **options).train()
    with pytest.raises(CheckpointError, match=r"checkpoint-2 holds the model only .save_only_model."):
        build(AdvantageTrainer, **options).train(resume_from_checkpoint="auto")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("torch.save", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        (
            "torch.save",
            RuntimeError("[enforce fail at inline_container.cc:743] . PytorchStreamWriter failed writing file"),
        ),
        ("write_manifest", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    ],
)
def test_no_space_left(build, tmp_path, monkeypatch, place, error):
    """One message, and what was there before is as it was."""
    trainer = build(AdvantageTrainer, **{**SAVES, "save_total_limit": 1}, output_dir=str(tmp_path))
    original = torch.save if place == "torch.save" else write_manifest

    def full(*args, **kwargs):
        if trainer.state.global_step == 3:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(torch if place == "torch.save" else resumable, place.split(".")[-1], full)
    with pytest.raises(CheckpointError, match=r"checkpoint-3 could not be written, .* GB are free there: .*make room"):
        trainer.train()
    found, skipped = newest_complete(tmp_path)
    assert found.name == "checkpoint-2"
    assert not skipped


def test_a_bug_while_saving_keeps_its_traceback(build, tmp_path, monkeypatch):
    trainer = build(AdvantageTrainer, **SAVES, output_dir=str(tmp_path))

    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        trainer.train()
