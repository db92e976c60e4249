"""A reward server that is gone costs time, or stops the run with a checkpoint; never the run."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tea.rewards import RemoteReward, RewardServerGone
from tea.trainers import TEATrainer
from tests.reference.reward_servers import RewardServer
from tests.trainers.conftest import PROMPTS, count_reward

ROOT = Path(__file__).parents[2]


def _score(completion):
    return count_reward([completion])[0]


class _Mortal(RewardServer):
    """A server that dies when it has been asked `answers` times, and with `rests` comes back so many seconds later."""

    def __init__(self, answers, rests=None, port=0):
        self.left, self.rests, self.again = answers, rests, None
        super().__init__("own", _score, port=port)

    def post(self, path, body):
        self.left -= 1
        if self.left < 0 and self.again is None:
            self.again = threading.Thread(target=self._die)
            self.again.start()
            raise ConnectionAbortedError
        return super().post(path, body)

    def _die(self):
        self.close()
        if self.rests is not None:
            time.sleep(self.rests)
            self.successor = RewardServer("own", _score, port=self.server_port)


def assert_same_weights(a, b):
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_server_away_for_a_while_changes_no_weight(build):
    reference = build(TEATrainer)
    reference.train()
    server = _Mortal(1, rests=1.5)
    trainer = build(TEATrainer, reward_funcs=RemoteReward(server.url, patience=60))
    start = time.monotonic()
    trainer.train()
    assert time.monotonic() - start > 1.5
    assert_same_weights(reference.model, trainer.model)
    server.successor.close()


@pytest.mark.parametrize("options", [{}, {"steps_per_generation": 2, "gradient_accumulation_steps": 1}])
def test_a_server_gone_for_good_leaves_an_exact_checkpoint(build, tmp_path, options):
    options = {"max_steps": 6, "reward_memory": 4, "output_dir": str(tmp_path / "run"), **options}
    reference = build(TEATrainer, **{**options, "output_dir": str(tmp_path / "reference")})
    reference.train()

    server = _Mortal(2)
    trainer = build(TEATrainer, reward_funcs=RemoteReward(server.url, patience=0.5, name="count_reward"), **options)
    steps = 2 * options.get("steps_per_generation", 1)
    with pytest.raises(RewardServerGone, match="no answer from") as caught:
        trainer.train()
    assert f"checkpoint-{steps}" in str(caught.value)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == [f"checkpoint-{steps}"]

    with RewardServer("own", _score) as back:
        resumed = build(TEATrainer, reward_funcs=RemoteReward(back.url, name="count_reward"), **options)
        resumed.train(resume_from_checkpoint="auto")
    assert_same_weights(reference.model, resumed.model)


def test_gone_before_the_first_step(build):
    trainer = build(TEATrainer, reward_funcs=RemoteReward("http://127.0.0.1:9", patience=0.2))
    with pytest.raises(RewardServerGone, match=r"no answer from http://127\.0\.0\.1:9"):
        trainer.train()


def _write_config(tmp_path, model_path, reward):
    data, config = tmp_path / "prompts.jsonl", tmp_path / "config.yaml"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    options = {
        "model_name_or_path": model_path,
        "dataset_name": str(data),
        "output_dir": str(tmp_path / "run"),
        "reward_funcs": [reward],
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 6,
        "max_steps": 3,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "dtype": "float32",
    }
    config.write_text(yaml.safe_dump(options))
    return config


def _run(command, directory):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=directory, timeout=300, check=False
    )


def test_tea_train_ends_with_exit_code_2(model_path, tmp_path):
    server = _Mortal(1)
    config = _write_config(tmp_path, model_path, f"{server.url},patience=0.5")
    result = _run([sys.executable, "-m", "tea", "train", "--config", str(config)], tmp_path)
    assert result.returncode == 2, result.stderr
    assert f"error: no answer from {server.url}" in result.stderr
    assert "--resume_from_checkpoint auto" in result.stderr
    assert "Traceback" not in result.stderr
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-1")


@pytest.mark.slow
def test_processes_stop_together(model_path, tmp_path):
    # The server is gone for one of two processes only: the other one must not wait for its rewards for ever.
    rewards, config = tmp_path / "mine.py", _write_config(tmp_path, model_path, "mine.py:reward")
    rewards.write_text(
        "import os\n"
        "from tea.rewards import RewardServerGone\n"
        "calls = []\n"
        "def reward(completions, **kwargs):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2 and os.environ['RANK'] == '1':\n"
        "        raise RewardServerGone('gone for one')\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = _run([*launcher, str(ROOT / "recipes" / "train.py"), "--config", str(config)], tmp_path)
    assert result.returncode != 0
    for rank in (0, 1):
        assert f"error (process {rank}): gone for one. Step 1 is saved in" in result.stderr
    assert (tmp_path / "run" / "checkpoint-1").is_dir()
