"""Our trainers over those that other tools make of TRL's, on stand-ins: neither tool is installed here."""

import importlib
import subprocess
import sys
import types

import pytest
import torch
import trl

from tea.trainers import AdvantageTrainer


def test_axolotl(build, monkeypatch):
    class AxolotlGRPOTrainer(trl.GRPOTrainer):
        def training_step(self, *args, **kwargs):
            self.axolotl_steps = getattr(self, "axolotl_steps", 0) + 1
            return super().training_step(*args, **kwargs)

    names = ["axolotl", "core", "trainers", "grpo", "trainer"]
    for i in range(len(names)):
        name = ".".join(names[: i + 1])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[name].AxolotlGRPOTrainer = AxolotlGRPOTrainer
    monkeypatch.delitem(sys.modules, "recipes.axolotl_trainer", raising=False)
    recipe = importlib.import_module("recipes.axolotl_trainer")
    trainer = build(recipe.Trainer, config_class=trl.GRPOConfig, max_steps=2)  # its config class knows none of ours
    trainer.train()
    assert trainer.axolotl_steps == 2
    expected = build(
        AdvantageTrainer,
        config_class=trl.GRPOConfig,
        max_steps=2,
        trainer_kwargs={"advantage_estimator": recipe.ESTIMATOR},
    )
    expected.train()
    assert list(trainer._logs["advantages"]) == list(expected._logs["advantages"])
    for a, b in zip(trainer.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_unsloth_imported_too_late(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "unsloth", types.ModuleType("unsloth"))
    build(AdvantageTrainer)
    monkeypatch.setattr(trl, "GRPOTrainer", type("UnslothGRPOTrainer", (trl.GRPOTrainer,), {}))
    with pytest.raises(ImportError, match=r"import unsloth before tea\.trainers"):
        build(AdvantageTrainer)


def test_unsloth_imported_first():
    code = (
        "import trl\n"
        "trl.GRPOTrainer = type('UnslothGRPOTrainer', (trl.GRPOTrainer,), {})\n"
        "from tea.trainers import TEATrainer\n"
        "print(issubclass(TEATrainer, trl.GRPOTrainer), trl.GRPOTrainer.__name__)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "UnslothGRPOTrainer"]
