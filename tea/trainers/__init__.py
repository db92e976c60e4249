"""TRL trainers for best-of-N. The only part of the library that imports trl."""

from tea.trainers.config import TEAConfig
from tea.trainers.trainer import AdvantageTrainer, PrefixTEATrainer, TEATrainer

__all__ = ["AdvantageTrainer", "PrefixTEATrainer", "TEAConfig", "TEATrainer"]
