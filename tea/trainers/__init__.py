"""TRL trainers for best-of-N. The only part of the library that imports trl."""

from tea._extras import needs_extra, warn_if_untested

with needs_extra("trl", "tea.trainers"):
    from tea.trainers.config import TEAConfig
    from tea.trainers.trainer import AdvantageTrainer, PrefixTEATrainer, TEATrainer

# The lowest and the newest version that the tests run with: constraints-lowest.txt and constraints.txt.
TESTED = {"trl": ("1.9", "1.16.0"), "transformers": ("5.5.4", "5.23.0")}
for _package, _versions in TESTED.items():
    warn_if_untested(_package, _versions)

__all__ = ["AdvantageTrainer", "PrefixTEATrainer", "TEAConfig", "TEATrainer"]
