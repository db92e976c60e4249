import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from tea.trainers import TEAConfig
from tests.reference.tiny import tiny_llama, tiny_tokenizer

PROMPTS = ["the quick", "brown fox", "jumps", "over the", "lazy dog", "the fox", "quick dog", "a brown"]

DEFAULTS = {
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "max_completion_length": 6,
    "max_steps": 3,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "seed": 11,
}


def count_reward(completions, **kwargs):
    """A graded reward without a model: share of the letter o, and a little for length."""
    return [text.count("o") / 4 + len(text) / 40 for text in completions]


def missing_reward(completions, **kwargs):
    """The same, with every fifth completion left without a reward."""
    return [None if i % 5 == 3 else r for i, r in enumerate(count_reward(completions))]


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def model_path(tmp_path_factory, tokenizer):
    path = str(tmp_path_factory.mktemp("model"))
    tiny_llama(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def build(tmp_path, model_path):
    """Build a trainer of any class on a tiny Llama: ``build(TEATrainer, target_n=32)``."""

    def build_trainer(
        trainer_class=GRPOTrainer,
        *,
        model=None,
        dataset=None,
        reward_funcs=count_reward,
        config_class=None,
        trainer_kwargs=None,
        **options,
    ):
        config_class = config_class or (GRPOConfig if trainer_class is GRPOTrainer else TEAConfig)
        defaults = {"output_dir": str(tmp_path / trainer_class.__name__), **DEFAULTS}
        dataset = dataset or Dataset.from_dict({"prompt": PROMPTS})
        config = config_class(**{**defaults, **options})
        return trainer_class(
            model=model or model_path,
            reward_funcs=reward_funcs,
            args=config,
            train_dataset=dataset,
            **{"eval_dataset": dataset if config.eval_strategy != "no" else None, **(trainer_kwargs or {})},
        )

    return build_trainer
