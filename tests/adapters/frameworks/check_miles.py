"""On miles: from samples to the advantages of its GRPO."""

from types import SimpleNamespace

import pytest
import torch

from tests.adapters.frameworks import engines

engines.stand_in("sglang", "sglang_router", "megatron", "mooncake", "ring_flash_attn", "flash_attn", "polars")

from miles.ray.rollout.train_data_conversion import convert_samples_to_train_data  # noqa: E402
from miles.utils.types import Sample  # noqa: E402

from tea.adapters.slime import post_process_rewards  # noqa: E402
from tests.adapters.reference import grouped_advantages, shuffled_groups  # noqa: E402


def arguments(**tea):
    return SimpleNamespace(
        advantage_estimator="grpo",
        rewards_normalization=True,
        reward_key=None,
        n_samples_per_prompt=8,
        rollout_batch_size=3,
        kl_coef=0.0,
        use_rollout_logprobs=False,
        use_dynamic_global_batch_size=False,
        normalize_advantages=False,
        tea=tea,
    )


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
    args = arguments(estimator="tea", target_n=64)
    data = convert_samples_to_train_data(args, samples, {}, None, post_process_rewards)
    expected = grouped_advantages(rewards.tolist(), ids, target_n=64)
    assert data["raw_reward"] == rewards.tolist()
    assert data["rewards"] == pytest.approx(expected, abs=1e-9)

    from miles.backends.training_utils.loss_hub.advantages import compute_advantages

    kl = [torch.zeros(2) for _ in samples]
    advantages, _ = compute_advantages(
        args, kl, data["rewards"], kl, [torch.ones(2)] * len(kl), [4] * len(kl), [2] * len(kl)
    )
    torch.testing.assert_close(torch.stack(advantages), torch.tensor(expected)[:, None].expand(-1, 2))
