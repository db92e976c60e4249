"""EasyR1: an advantage estimator in place of the one for ``algorithm.adv_estimator=grpo``.

Relies on (hiyouga/EasyR1, commit b44b311), a fork of an early verl whose package is named verl too:

- ``verl/trainer/core_algos.py``: ``register_adv_estimator(name)`` decorates a function and replaces what has that
  name; it is called by keyword with ``token_level_rewards`` (B, T), ``response_mask`` (B, T) and ``index`` (B,);
- ``verl/trainer/ray_trainer.py``: the trainer refuses names that are not built in;
- ``verl/trainer/main.py``: the trainer runs in a Ray actor; ``ray.init`` is only called if nobody did before.
"""

from __future__ import annotations

from typing import Any

from tea.adapters.framework import import_framework
from tea.adapters.verl import VerlAdvantages, make_verl_estimator

__all__ = ["register"]


def register(name: str = "tea", *, register_as: str = "grpo", **options: Any) -> VerlAdvantages:
    """Let EasyR1 use this estimator where its config says ``algorithm.adv_estimator: grpo``, in this process.

    The trainer's process is one of Ray's, so let Ray call this when it starts one, by a function of yours
    (Ray wants its name, which a ``functools.partial`` has not)::

        def prepare():
            easyr1.register("tea", target_n=128)

        ray.init(runtime_env={"worker_process_setup_hook": prepare})
        verl.trainer.main.main()

    Args:
        name, options: As for :func:`tea.adapters.verl.make_verl_estimator`; how to choose the advantages' size too.
        register_as: Which of EasyR1's own to replace: it knows no others.

    Raises:
        ImportError: Without EasyR1.
        ValueError: If EasyR1 has no estimator ``register_as``.

    Checked by ``tests/adapters/test_easyr1.py`` and, on EasyR1's own code,
    ``tests/adapters/frameworks/check_easyr1.py``.
    """
    function = make_verl_estimator(name, **options)
    core_algos = import_framework("EasyR1", "verl.trainer.core_algos")
    known = core_algos.ADV_ESTIMATOR_MAP
    if register_as not in known:
        raise ValueError(
            f"EasyR1 uses none but its own estimators, {', '.join(known)}; got register_as={register_as!r}"
        )
    core_algos.register_adv_estimator(register_as)(function)
    return function
