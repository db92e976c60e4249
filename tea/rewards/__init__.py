"""What scores a completion: Hugging Face reward models, Python functions, verifiers, remote servers.

Every reward is a callable with TRL's signature, ``reward(prompts, completions, **columns) -> list[float | None]``, and
a ``__name__``: the same object serves as one of a trainer's `reward_funcs` and in ``tea eval``. This package needs
neither trl nor the rest of tea.
"""

from tea import _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, __file__)
