"""On slime: from samples to the advantages of its GRPO."""

from types import SimpleNamespace

import pytest
import torch

from tests.adapters.frameworks import engines

engines.stand_in("sglang", "sglang_router", "megatron", "ring_flash_attn", "flash_attn", "polars", "mbridge", "wandb")

from slime.ray.rollout import RolloutManager  # noqa: E402
from slime.utils.types import Sample  # noqa: E402

from tea.adapters.slime import post_process_rewards  # noqa: E402
from tests.adapters.reference import grouped_advantages, shuffled_groups  # noqa: E402


@pytest.mark.parametrize("sizes", [[8, 8, 8], [8, 5, 3]])
def test_from_samples_to_advantages(sizes):
    rewards, ids = shuffled_groups(0, sizes)
    names = sorted(set(ids))
    samples = [
        Sample(
            group_index=names.index(key),
            index=i,
            prompt=key,
            tokens=[1, 2, 3, 4],
            response_length=2,
            reward=reward,
            loss_mask=[1, 1],
            status=Sample.Status.COMPLETED,
        )
        for i, (key, reward) in enumerate(zip(ids, rewards.tolist(), strict=True))
    ]
    args = SimpleNamespace(
        advantage_estimator="grpo",
        rewards_normalization=True,
        reward_key=None,
        n_samples_per_prompt=8,
        rollout_batch_size=3,
        kl_coef=0.0,
        use_rollout_logprobs=False,
        use_opd=False,
        custom_advantage_function_path=None,
        normalize_advantages=False,
        tea={"estimator": "tea", "target_n": 64},
    )
    cls = getattr(RolloutManager, "__ray_metadata__", None)
    methods = cls.modified_class if cls is not None else RolloutManager
    manager = SimpleNamespace(
        args=args,
        custom_convert_samples_to_train_data_func=None,
        custom_reward_post_process_func=post_process_rewards,
    )
    manager._post_process_rewards = lambda given: methods._post_process_rewards(manager, given)
    data = methods._convert_samples_to_train_data(manager, samples)
    expected = grouped_advantages(rewards.tolist(), ids, target_n=64)
    assert data["raw_reward"] == rewards.tolist()
    assert data["rewards"] == pytest.approx(expected, abs=1e-9)

    from slime.utils.ppo_utils import get_grpo_returns  # what its loss makes of them under grpo, gspo and cispo

    advantages = get_grpo_returns(torch.tensor(data["rewards"]), [torch.zeros(2) for _ in samples])
    torch.testing.assert_close(torch.stack(list(advantages)), torch.tensor(expected)[:, None].expand(-1, 2))
