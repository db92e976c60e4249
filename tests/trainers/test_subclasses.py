"""Together with TRL's own subclasses of GRPOTrainer, and with those of its trainers that it cannot go with."""

from dataclasses import dataclass

import pytest
import torch
from trl import RLOOTrainer

from tea.trainers import AdvantageTrainer, TEAConfig

gmpo = pytest.importorskip("trl.experimental.gmpo")


class GMPOAdvantageTrainer(AdvantageTrainer, gmpo.GMPOTrainer):
    pass


@dataclass
class GMPOTEAConfig(gmpo.GMPOConfig, TEAConfig):
    pass


def train(trainer):
    trainer.train()
    return list(trainer.model.parameters())


def test_gmpo_with_its_own_advantages_is_gmpo_bit_for_bit(build):
    options = {"num_iterations": 2, "steps_per_generation": 1, "learning_rate": 0.3}  # far enough for clipping
    expected = train(build(gmpo.GMPOTrainer, config_class=gmpo.GMPOConfig, **options))
    ours = build(GMPOAdvantageTrainer, config_class=GMPOTEAConfig, advantage_estimator="grpo", **options)
    assert ours.epsilon_low == ours.epsilon_high == 0.4
    for a, b in zip(expected, train(ours), strict=True):
        assert torch.equal(a, b)


def test_gmpo_trains_on_our_advantages_with_its_loss(build):
    options = {"max_steps": 2, "num_iterations": 2, "steps_per_generation": 1, "epsilon": 0.4}
    options["advantage_estimator"] = "tea"
    plain = build(AdvantageTrainer, **options)
    weights = train(plain)
    ours = build(GMPOAdvantageTrainer, config_class=GMPOTEAConfig, **options)
    assert any(not torch.equal(a, b) for a, b in zip(weights, train(ours), strict=True))  # another loss
    assert list(plain._logs["advantages"]) == list(ours._logs["advantages"])  # of the first, equal rollouts


def test_config_bases_in_the_order_that_loses_defaults():
    assert GMPOTEAConfig(output_dir="unused", use_cpu=True, bf16=False).epsilon == 0.4
    with pytest.raises(TypeError, match=r"lose the defaults of GMPOConfig \(epsilon\).*class Wrong\(GMPOConfig, TEA"):

        @dataclass
        class Wrong(TEAConfig, gmpo.GMPOConfig):
            pass

    @dataclass
    class Extra:
        mine: int = 3

    @dataclass
    class Fine(TEAConfig, Extra):  # nothing of it is lost
        epsilon: float = 0.3

    assert (Fine(output_dir="unused", use_cpu=True, bf16=False).epsilon, Fine.mine) == (0.3, 3)


def test_rloo_trainer_is_refused():
    with pytest.raises(TypeError, match=r"RLOOTrainer is no GRPOTrainer.*loss_type='dr_grpo'"):

        class Both(AdvantageTrainer, RLOOTrainer):
            pass
