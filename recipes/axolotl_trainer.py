"""axolotl's GRPO trainer with our advantages: `rl: grpo`, `trainer_cls: recipes.axolotl_trainer.Trainer` in its YAML.

    axolotl train config.yaml     # from a directory in which this file is recipes/axolotl_trainer.py

axolotl makes the arguments of its own config class, so the options of the estimator are set here. What `trl:` says in
the YAML (`num_generations`, `beta`, `reward_funcs`, ...) keeps its meaning.
"""

from typing import Any

from axolotl.core.trainers.grpo.trainer import AxolotlGRPOTrainer

import tea
from tea.trainers import AdvantageTrainer

ESTIMATOR = tea.get_estimator("tea", target_n=128)


class Trainer(AdvantageTrainer, AxolotlGRPOTrainer):
    """axolotl's optimisers, schedulers and sampling; TEA's advantages, in units of the reward."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, advantage_estimator=ESTIMATOR, **kwargs)
