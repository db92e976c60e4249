"""From what a user writes on a command line to a reward function."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tea.rewards.base import RewardFunction
from tea.rewards.verifiers import VERIFIERS


def load_reward(spec: str, **model_options: Any) -> RewardFunction:
    """The reward function that `spec` names.

    Args:
        spec: one of
            a verifier's name, "exact_match", "contains_answer" or "last_number";
            a Python function, "package.module:function", "package.module.function" or "path/to/file.py:function";
            "reasoning_gym", or one of its tasks, "reasoning_gym:chain_sum" (:mod:`tea.rewards.gym`);
            a server, "vllm:URL", "sglang:URL", "openrlhf:URL" (:mod:`tea.rewards.servers`) or one of your own,
            "https://..." (:class:`tea.rewards.RemoteReward`); more servers and options follow after commas,
            "vllm:http://a:8000,http://b:8000,model=org/name,concurrency=64";
            a sequence-classification model, a local directory or a hub id ("org/name").
            Any of them may be preceded by "name=" to give the reward another name.
        **model_options: passed to :class:`tea.rewards.RewardModel` (batch_size, device, dtype, ...).

    Raises:
        ValueError: nothing of that kind can be found (the message says what was tried), or the function cannot be
            called.
    """
    name, separator, target = spec.partition("=")
    if not separator or not name.replace("_", "").replace("-", "").isalnum():
        name, target = "", spec
    if not target:
        raise ValueError(f"reward {spec!r} is empty after its name")
    if target in VERIFIERS:
        return _renamed(VERIFIERS[target], name)
    protocol, _, rest = target.partition(":")
    if protocol in ("vllm", "sglang", "openrlhf"):
        from tea.rewards.servers import SERVERS

        urls, options = _split_server(spec, rest)
        return SERVERS[protocol](urls, **_server_options(spec, SERVERS[protocol], options), name=name or None)
    if target.startswith(("http://", "https://")):
        from tea.rewards.remote import RemoteReward

        urls, options = _split_server(spec, target)
        return RemoteReward(urls, **_server_options(spec, RemoteReward, options), name=name or "remote_reward")
    if target == "python_tests" or target.startswith("python_tests:"):
        from tea.rewards.sandbox import PythonTests

        return _named(PythonTests(target.partition(":")[2] or "tests"), name)
    if target == "reasoning_gym" or target.startswith("reasoning_gym:"):
        from tea.rewards.gym import GymReward

        return _named(GymReward(target.partition(":")[2]), name)
    path, _, attribute = target.rpartition(":")
    if path.endswith(".py"):
        return _renamed(_from_file(Path(path), attribute), name)
    if Path(target).is_dir():
        return _model(target, name, model_options)
    if path or ("/" not in target and "." in target):
        return _renamed(_from_module(*((path, attribute) if path else target.rpartition(".")[::2])), name)
    if "/" in target:
        return _model(target, name, model_options)
    raise ValueError(
        f"reward {spec!r} is neither a verifier ({', '.join(sorted(VERIFIERS))}), a Python function "
        "(package.module:function or file.py:function), a directory, a hub id (org/name), a server (vllm:URL, "
        "sglang:URL, openrlhf:URL, https://...) nor a task (reasoning_gym:TASK)"
    )


def _model(path: str, name: str, options: dict[str, Any]) -> RewardFunction:
    from tea.rewards.model import RewardModel

    return RewardModel(path, name=name or None, **options)


def _split_server(spec: str, text: str) -> tuple[list[str], dict[str, str]]:
    """Addresses and options of "URL,URL,option=value"."""
    urls: list[str] = []
    options: dict[str, str] = {}
    for part in text.split(","):
        key, separator, value = part.partition("=")
        if part.startswith(("http://", "https://")):
            urls.append(part)
        elif separator and key.isidentifier():
            options[key] = value
        else:
            raise ValueError(f"reward {spec!r}: {part!r} is neither an address, http://HOST:PORT, nor option=value")
    return urls, options


def _server_options(spec: str, reward: Any, options: dict[str, str]) -> dict[str, Any]:
    """`options` as the types of the parameters' defaults."""
    known: dict[str, inspect.Parameter] = {}
    for cls in reversed(reward.__mro__):
        known |= {
            name: parameter
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "name"
        }
    result: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"reward {spec!r} has no option {key!r}; it has: {', '.join(sorted(known))}")
        default = known[key].default
        try:
            if isinstance(default, (int, float)):
                result[key] = type(default)(value)
            elif isinstance(default, tuple):
                result[key] = tuple(value.split("+"))
            else:
                result[key] = int(value) if key == "max_length" else value
        except ValueError:
            raise ValueError(f"reward {spec!r}: {key} must be a number, got {value!r}") from None
    return result


def _named(reward: RewardFunction, name: str) -> RewardFunction:
    if name:
        reward.__name__ = name
    return reward


def _from_file(path: Path, attribute: str) -> RewardFunction:
    if not path.is_file():
        raise ValueError(f"reward file {str(path)!r} does not exist")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ValueError(f"{str(path)!r} cannot be loaded as Python code")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return _attribute(module, str(path), attribute)


def _from_module(module: str, attribute: str) -> RewardFunction:
    if "" not in sys.path:  # as with `python -m`: modules beside the user's shell are found
        sys.path.insert(0, "")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"reward function {module}:{attribute}: {error}") from error
    return _attribute(loaded, module, attribute)


def _attribute(module: object, where: str, attribute: str) -> RewardFunction:
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = sorted(k for k, v in vars(module).items() if callable(v) and not k.startswith("_"))
        raise ValueError(f"{where} has no function {attribute!r}; it has: {', '.join(functions) or 'none'}")
    if not hasattr(function, "__name__"):
        function.__name__ = attribute
    return function


def _renamed(function: RewardFunction, name: str) -> RewardFunction:
    if not name or name == function.__name__:
        return function

    def renamed(prompts: Any, completions: Any, **kwargs: Any) -> Any:
        return function(prompts=prompts, completions=completions, **kwargs)

    renamed.__name__ = name
    renamed.source = reward_source(function)  # type: ignore[attr-defined]
    renamed.fingerprint = reward_fingerprint(function)  # type: ignore[attr-defined]
    return renamed


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
