"""On NeMo-RL: its choice of an estimator, and the call of it."""

from types import SimpleNamespace

import pytest
import torch
import transformers.models.auto.processing_auto  # noqa: F401 (before anything that it looks for is stood in)

from tests.adapters.frameworks import engines

engines.stand_in(
    *(
        "vllm",
        "megatron",
        "sglang",
        "decord",
        "wandb",
        "mlflow",
        "swanlab",
        "tensorboard",
        "torchvision",
        "math_verify",
    ),
    *("nvidia_resiliency_ext", "zmq", "pynvml", "nemo_automodel", "blobfile", "transfer_queue"),
)

from nemo_rl.algorithms import grpo  # noqa: E402
from nemo_rl.algorithms.advantage_estimator import AdvEstimatorConfig  # noqa: E402

from tea.adapters.nemo_rl import install  # noqa: E402
from tests.adapters.reference import grouped_advantages, shuffled_groups  # noqa: E402


@pytest.mark.parametrize("tea", [{}, {"tea": {"estimator": "ladder", "target_n": 256}}])
def test_the_trainers_way_to_advantages(monkeypatch, tea):
    monkeypatch.setattr(grpo, "GRPOAdvantageEstimator", grpo.GRPOAdvantageEstimator)
    install("tea", target_n=64)
    master_config = SimpleNamespace(
        grpo=SimpleNamespace(adv_estimator=AdvEstimatorConfig(name="grpo", **tea)), loss_fn=SimpleNamespace()
    )
    estimator = grpo._create_advantage_estimator(master_config)
    rewards, ids = shuffled_groups(0, [8, 5, 8])
    prompts = torch.tensor([[5, 6, int(key[-3:]) + 1, 0] for key in ids])
    mask = torch.ones(len(ids), 7)
    advantages = estimator.compute_advantage(
        prompt_ids=prompts,
        rewards=rewards,
        mask=mask,
        repeated_batch={},
        logprobs_policy=torch.zeros(len(ids), 7),
        logprobs_reference=None,
    )
    options = dict(tea.get("tea", {"target_n": 64}))
    expected = grouped_advantages(rewards.tolist(), ids, options.pop("estimator", "tea"), **options)
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64)[:, None].expand(-1, 7))
