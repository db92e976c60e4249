"""The contract of a reward function, calling one safely, and telling one from another."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

Message: TypeAlias = Mapping[str, Any]
Text: TypeAlias = "str | Sequence[Message]"
"""A prompt or completion: plain text, or a list of {"role", "content"} messages."""


@runtime_checkable
class RewardFunction(Protocol):
    """What TRL's trainers accept as one of `reward_funcs`."""

    __name__: str

    def __call__(self, *args: Any, **kwargs: Any) -> Sequence[float | None]:
        """One reward per completion, None where this reward does not apply to it.

        Called by keyword. Implementations name what they need and take the rest as ``**kwargs``:
            prompts: B prompts, plain text or conversations.
            completions: B completions, of the same kind as the prompts.
            <column>: the data set's other columns, B entries each, and whatever a trainer adds.
        """


def completion_texts(completions: Sequence[Text]) -> list[str]:
    """The text of each completion: itself, or the contents of its messages joined."""
    return [
        completion if isinstance(completion, str) else "".join(str(message["content"]) for message in completion)
        for completion in completions
    ]


def reward_text(tokenizer: Any, prompt: Text, completion: Text, source: str) -> str:
    """What a reward model reads: conversations through its tokenizer's chat template, plain text joined.

    Raises:
        ValueError: one of the two is text and the other a conversation, or the tokenizer of the model called `source`
            has no chat template for a conversation.
    """
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt + completion
    if isinstance(prompt, str) or isinstance(completion, str):
        raise ValueError("prompt and completion must both be text or both be lists of messages")
    if tokenizer is None:
        raise ValueError(
            f"the prompts are conversations, and the chat template of {source} is not known: name the reward model, "
            "model=ORG/NAME"
        )
    if tokenizer.chat_template is None:
        raise ValueError(
            f"the tokenizer of reward model {source!r} has no chat template, but the prompts are conversations"
        )
    return str(tokenizer.apply_chat_template([dict(m) for m in (*prompt, *completion)], tokenize=False))


def score_completions(
    reward: RewardFunction, prompts: Sequence[Text], completions: Sequence[Text], columns: Mapping[str, Sequence[Any]]
) -> list[float | None]:
    """Call `reward` and check what comes back.

    Returns:
        One float, or None, per completion.

    Raises:
        TypeError: the function returned something other than numbers and None.
        ValueError: it returned another number of rewards than there are completions.
    """
    name = reward.__name__
    # By keyword, as TRL calls it: functions that name only some of the arguments keep working.
    scores = reward(prompts=prompts, completions=completions, **columns)
    if hasattr(scores, "tolist"):
        scores = scores.tolist()
    try:
        result = [None if score is None else float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise TypeError(f"reward function {name!r} must return a list of numbers or None: {error}") from None
    if len(result) != len(completions):
        raise ValueError(f"reward function {name!r} returned {len(result)} rewards for {len(completions)} completions")
    return result


def reward_source(function: RewardFunction | Callable[..., Any]) -> str:
    """Where a reward comes from, for the record: a model's path, a server's address or module:function."""
    source = getattr(function, "source", None)
    if source is not None:
        return str(source)
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', type(function).__name__)}"


def reward_fingerprint(function: RewardFunction | Callable[..., Any]) -> str | None:
    """A hash of the model's weights or the function's source, to tell an edited reward from the old one; or None."""
    known = getattr(function, "fingerprint", None)
    if known is not None:
        return str(known)
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
    except (OSError, TypeError):  # no source at hand: a callable object, a built-in
        return None
