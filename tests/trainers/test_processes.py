"""What only shows in processes of their own: signals, kills, several processes.

One file, so that one worker of the test run starts one fork server.
"""

import itertools
import json
import os
import random
import signal
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from tea.trainers.checkpoints import newest_complete
from tests.trainers import conftest, processes

RUN = {
    "advantage_estimator": "max_at_k",
    "k": 6,
    "reward_memory": 8,
    "num_iterations": 2,
    "max_steps": 10,
    "save_strategy": "steps",
}


def assert_same_weights(a, b):
    a, b = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].equal(b[name]), name


def train(spec, count=1, **environment):
    processes.finish(processes.start(spec, count, **environment), spec)
    return [json.loads((spec["output"] / f"record_{rank}.json").read_text()) for rank in range(count)]


def wait_for(path, text, process, timeout=60):
    deadline = time.monotonic() + timeout
    while not (path.exists() and text in path.read_text()):
        waiting = process.is_alive() and time.monotonic() < deadline
        assert waiting, path.with_name("log_0.txt").read_text()[-3000:]
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model_path):
    """A run that nothing interrupts, and how long it trained."""
    output = tmp_path_factory.mktemp("whole")
    (record,) = train({"model": model_path, "output": output, "options": {**RUN, "save_steps": 100}})
    assert record["stopped_by"] is None
    return output, record["seconds"]


def test_sigterm_saves_within_the_step_and_exits_with_0(tmp_path, model_path, whole):
    options = {**RUN, "save_steps": 100}
    stopped = {"model": model_path, "output": tmp_path / "stopped", "options": options, "slow_step": 0.3}
    (process,) = processes.start(stopped)
    wait_for(stopped["output"] / "progress.txt", "step 4", process)  # in the fifth step, the third of an epoch
    process.terminate()
    processes.finish([process], stopped)
    record = json.loads((stopped["output"] / "record_0.json").read_text())
    assert record["stopped_by"] == "SIGTERM"
    assert (stopped["output"] / "progress.txt").read_text().split("\n")[-3:] == ["step 4", "saved 5", ""]
    assert newest_complete(stopped["output"]) == (stopped["output"] / "checkpoint-5", {})
    del stopped["slow_step"]
    train({**stopped, "options": {**options, "resume_from_checkpoint": "auto"}})
    assert_same_weights(whole[0], tmp_path / "stopped")


def test_killed_at_random_moments(tmp_path, model_path, whole):
    """A run that is killed over and over; then the next one, until there have been TEA_KILLS (4) of them.

    TEA_KILLS=50 python -m pytest tests/trainers/test_processes.py -k killed
    """
    kills = int(os.environ.get("TEA_KILLS", "4"))
    chance = random.Random(0)
    options = {**RUN, "save_steps": 1, "save_total_limit": 2}
    uninterrupted, seconds = whole
    runs = done = 0
    while done < kills:
        runs += 1
        spec = {
            "model": model_path,
            "output": tmp_path / f"run-{runs}",
            "options": {**options, "resume_from_checkpoint": "auto"},
        }
        progress = spec["output"] / "progress.txt"
        finished = False
        while not finished:
            lives = progress.read_text().count("begin") if progress.exists() else 0
            (process,) = processes.start(spec)
            while process.is_alive() and not (progress.exists() and progress.read_text().count("begin") > lives):
                time.sleep(0.002)
            process.join(chance.uniform(0, 0.6 * seconds))
            finished = process.exitcode is not None
            if finished:
                processes.finish([process], spec)
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            done += 1
            saved = [int(line.split()[1]) for line in progress.read_text().split("\n") if line.startswith("saved")]
            found, _ = newest_complete(spec["output"])
            at = 0 if found is None else int(found.name.split("-")[1])
            assert at >= (saved[-1] if saved else 0)
            if done >= kills:
                train(spec)
                finished = True
        assert_same_weights(uninterrupted, spec["output"])
        lines = [line.split() for line in progress.read_text().split("\n")[:-1]]
        # Every life began where the last checkpoint had been left, at most one step back.
        for before, (event, step_number) in itertools.pairwise(lines):
            if event == "begin":
                assert int(step_number) >= int(before[1])


# --- Several processes ---

# Groups of 4 over two processes of 6 rows: the middle one of three lies on both. 7 prompts: one is left over in
# every epoch of 4 steps. The last step is the first of two that share a generation.
SHARED = {
    **RUN,
    "steps_per_generation": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": 7,
    "save_steps": 5,
    "eval_strategy": "steps",
    "eval_steps": 7,
    "learning_rate": 1e-3,
}
PROMPTS = conftest.PROMPTS[:7]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, model_path):
    output = tmp_path_factory.mktemp("one")
    options = {**SHARED, "per_device_train_batch_size": 6, "per_device_eval_batch_size": 8}
    spec = {"model": model_path, "output": output, "options": options, "recorded": True, "prompts": PROMPTS}
    return output, train(spec)[0]


def two(model_path, output, **options):
    options = {**SHARED, "per_device_train_batch_size": 3, "per_device_eval_batch_size": 4, **options}
    return {"model": model_path, "output": output, "options": options, "recorded": True, "prompts": PROMPTS}


def together(records):
    """Batches of both processes, put together."""
    return [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(*(r["batches"] for r in records), strict=True)]


def assert_nearly_the_same_weights(a, b):
    a, b = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=2e-6)


def assert_same_training(one, records):
    for (prompts, advantages), (prompts_, advantages_) in zip(one["batches"], together(records), strict=True):
        assert prompts == prompts_
        assert advantages == pytest.approx(advantages_, abs=1e-5)
    compared = set()
    for row, row_ in zip(one["log"], records[0]["log"], strict=True):
        names = [name for name in row if "tea/" in name and "time" not in name]
        # Not eval_reward, in which TRL counts the rows twice that fill up the last batch.
        names += {"reward", "loss", "grad_norm"} & set(row)
        for name in names:
            assert row_[name] == pytest.approx(row[name], rel=1e-3, abs=1e-5), name
        compared.update(names)
    assert {"tea/best_of_n", "eval_tea/best_of_n", "tea/memory_rewards", "loss", "grad_norm"} <= compared
    for record in records:
        assert record["memory"] == one["memory"]


def test_two_processes_train_like_one_and_resume(tmp_path, model_path, one_process):
    output, one = one_process
    assert one["batches"][-1][1] != [0.0] * 12
    spec = two(model_path, tmp_path / "two")
    records = train(spec, 2)
    assert_same_training(one, records)
    assert_nearly_the_same_weights(output, tmp_path / "two")
    checkpoint = tmp_path / "two" / "checkpoint-5"
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert {"trainer_extra_state_0.pt", "trainer_extra_state_1.pt", "rng_state_1.pth"} <= set(files)
    resumed = two(model_path, tmp_path / "resumed", resume_from_checkpoint=str(checkpoint))
    again = train(resumed, 2)
    assert [record["batches"] for record in again] == [record["batches"][-1:] for record in records]
    assert [record["memory"] for record in again] == [record["memory"] for record in records]
    assert_same_weights(tmp_path / "two", tmp_path / "resumed")


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def check_sharded(tmp_path, model_path, one_process, variables, files):
    """Trains like one process; a checkpoint has these files, whole, and goes on to the same weights."""
    output, one = one_process
    # Where use_cpu is set, accelerate does not even look for FSDP.
    records = train(two(model_path, tmp_path / "two", use_cpu=False), 2, **variables)
    assert_same_training(one, records)
    assert_nearly_the_same_weights(output, tmp_path / "two")
    checkpoint = tmp_path / "two" / "checkpoint-5"
    assert files <= set(json.loads((checkpoint / "manifest.json").read_text())["files"])
    resumed = two(model_path, tmp_path / "resumed", use_cpu=False, resume_from_checkpoint=str(checkpoint))
    train(resumed, 2, **variables)
    assert_same_weights(tmp_path / "two", tmp_path / "resumed")


def test_fsdp2_trains_like_one_process_and_resumes(tmp_path, model_path, one_process):
    files = {"pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0/__1_0.distcp"}
    check_sharded(tmp_path, model_path, one_process, FSDP2, files)


ZERO3 = {
    "DS_ACCELERATOR": "cpu",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
}


def test_zero3_trains_like_one_process_and_resumes(tmp_path, model_path, one_process):
    pytest.importorskip("deepspeed")
    files = {
        f"global_step5/zero_pp_rank_{rank}_mp_rank_00_{kind}.pt"
        for rank in (0, 1)
        for kind in ("model_states", "optim_states")
    }
    check_sharded(tmp_path, model_path, one_process, ZERO3, files)


def test_sigterm_to_one_of_two_processes(tmp_path, model_path):
    spec = {**two(model_path, tmp_path / "two", save_strategy="no", eval_strategy="no"), "slow_step": 0.3}
    started = processes.start(spec, 2)
    wait_for(spec["output"] / "progress.txt", "step 2", started[0])
    started[1].terminate()
    processes.finish(started, spec)
    for rank in (0, 1):
        assert json.loads((spec["output"] / f"record_{rank}.json").read_text())["stopped_by"] == "SIGTERM"
    assert newest_complete(spec["output"]) == (spec["output"] / "checkpoint-3", {})
