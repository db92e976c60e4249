"""Tried on an installed wheel, in an environment with nothing else (`make test-wheel`): does each part of it work?

python tests/install/smoke.py      from a directory that is not the repository's
"""

import contextlib
import io
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

warnings.simplefilter("ignore")


def main():
    import numpy as np
    import torch

    import tea
    from tea.cli import app

    assert "site-packages" in tea.__file__, f"not the installed one: {tea.__file__}"
    assert tea.__version__ == version("tea-rl")
    rewards = torch.randn(4, 16)
    for spec in tea.list_estimators():
        with contextlib.suppress(TypeError, ValueError):  # options of its own, or 0/1 rewards only
            assert tea.get_estimator(spec.name)(rewards).shape == rewards.shape
    assert tea.tea_advantages(rewards, target_n=128).shape == rewards.shape

    folder = Path(tempfile.mkdtemp())
    np.save(folder / "rewards.npy", np.random.default_rng(0).normal(size=(20, 16)))
    for command in ("curve", "forecast", "diagnose", "plan", "explain"):
        options = ["--output-dir", str(folder / "explain")] if command == "explain" else []
        with contextlib.redirect_stdout(io.StringIO()):
            app([command, str(folder / "rewards.npy"), *options], standalone_mode=False)

    try:
        import trl
    except ImportError:
        print(f"tea-rl {version('tea-rl')} works without extras, torch {version('torch')}, numpy {version('numpy')}")
        return
    from datasets import Dataset
    from transformers import LlamaForCausalLM

    from tea.demo.stages import _model_config, build_tokenizer
    from tea.demo.task import gold, split_prompts
    from tea.trainers import TEAConfig, TEATrainer

    tokenizer = build_tokenizer()
    trainer = TEATrainer(
        model=LlamaForCausalLM(_model_config({"hidden_size": 16, "num_layers": 1, "num_heads": 2}, tokenizer)),
        reward_funcs=gold,
        args=TEAConfig(
            output_dir=str(folder / "run"),
            num_generations=4,
            target_n=16,
            per_device_train_batch_size=8,
            max_completion_length=6,
            max_steps=1,
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            report_to="none",
        ),
        train_dataset=Dataset.from_dict({"prompt": split_prompts(64)[0]}),
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.global_step == 1
    print(f"tea-rl {version('tea-rl')} works, torch {version('torch')}, trl {trl.__version__}")


if __name__ == "__main__":
    sys.exit(main())
