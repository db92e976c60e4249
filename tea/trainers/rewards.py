"""Rewards for a trainer: reward models that are ones, and functions whose mistakes are named."""

from __future__ import annotations

import asyncio
import functools
import inspect
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from tea.rewards.client import RewardServerGone
from tea.rewards.model import UntrainedScorer, check_one_label, load_scorer
from tea.trainers.errors import UserError, refuse_pickled, told_to_user


def load_reward_model(path: str, **options: Any) -> torch.nn.Module:
    """A sequence-classification model with one label, all of whose weights come from the checkpoint.

    Args:
        path: Local directory or hub id.
        **options: For `from_pretrained`: dtype, revision, trust_remote_code, device_map, ...

    Raises:
        UserError: If it cannot be loaded, has more than one label, or its score head would be newly initialised, as
            that of a language model would: a random reward trains without an error.
    """
    try:
        with refuse_pickled(f"reward model {path!r}"):
            return load_scorer(path, **options)
    except UserError:
        raise
    except UntrainedScorer as error:
        raise UserError(str(error)) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"reward model {path!r} cannot be loaded: {model_error(path, error)}") from error


def model_error(path: str, error: Exception) -> str:
    """What to tell a user whose model or tokenizer does not load."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return f"it needs code from {path}; read that code, then set --trust_remote_code true"
    # The hub's client says the same in several sentences; the first is enough.
    first = text.split(". ")[0].rstrip(".")
    local = path.startswith((".", "/", "~"))
    return f"{first}. It is looked for as a {'directory' if local else 'directory here, then on the hub'}"


def checked(reward: Callable[..., Any]) -> Callable[..., Any]:
    """The same reward function; what it does wrong is told by its name.

    The wrapped function raises :class:`UserError` if the function raises, or returns something else than one number
    or None per completion.
    """
    name = getattr(reward, "__name__", type(reward).__name__)

    def numbers(rewards: Any, count: int) -> list[float | None]:
        if isinstance(rewards, torch.Tensor) or hasattr(rewards, "tolist"):
            rewards = rewards.tolist()
        if not isinstance(rewards, Sequence) or isinstance(rewards, str):
            raise UserError(
                f"reward function {name!r} returned {rewards!r} ({type(rewards).__name__}); it must return a list of "
                f"{count} numbers, one per completion"
            )
        if len(rewards) != count:
            raise UserError(f"reward function {name!r} returned {len(rewards)} rewards for {count} completions")
        result: list[float | None] = []
        for index, value in enumerate(rewards):
            if isinstance(value, str) or not (value is None or hasattr(value, "__float__")):
                raise UserError(
                    f"reward function {name!r} returned {value!r} for completion {index}; it must be a number, or None "
                    "where there is no reward"
                )
            result.append(None if value is None else float(value))
        return result

    def failed(error: Exception, columns: Iterable[str]) -> UserError:
        last = traceback.extract_tb(error.__traceback__)[-1]
        if isinstance(error, TypeError) and "required" in str(error) and last.filename == __file__:
            return UserError(f"reward function {name!r} cannot be called: {error}; it is given {', '.join(columns)}")
        return UserError(
            f"reward function {name!r} raised {type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
        )

    if inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(getattr(reward, "__call__", None)):  # noqa: B004

        async def wrapped_async(*args: Any, **kwargs: Any) -> list[float | None]:
            try:
                rewards = await reward(*args, **kwargs)
            except (UserError, RewardServerGone, asyncio.CancelledError):
                raise
            except Exception as error:
                raise failed(error, kwargs) from error
            return numbers(rewards, len(kwargs["completions"]))

        return _named(wrapped_async, reward, name)

    def wrapped(*args: Any, **kwargs: Any) -> list[float | None]:
        try:
            rewards = reward(*args, **kwargs)
        except (UserError, RewardServerGone):
            raise
        except Exception as error:
            raise failed(error, kwargs) from error
        return numbers(rewards, len(kwargs["completions"]))

    return _named(wrapped, reward, name)


def _named(wrapper: Callable[..., Any], reward: Callable[..., Any], name: str) -> Callable[..., Any]:
    functools.update_wrapper(wrapper, reward, updated=())
    wrapper.__name__ = name
    return wrapper


def checked_rewards(reward_funcs: Any, **model_options: Any) -> Any:
    """`reward_funcs` as TRL takes them, with models loaded and functions checked."""
    if reward_funcs is None:
        return None
    rewards = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    out: list[Any] = []
    for reward in rewards:
        if isinstance(reward, str):
            out.append(load_reward_model(reward, **model_options))
        elif isinstance(reward, torch.nn.Module):
            with told_to_user(UntrainedScorer):
                check_one_label(reward.config)
            out.append(reward)
        elif not callable(reward):
            out.append(reward)
        else:
            out.append(checked(reward))
    return out
