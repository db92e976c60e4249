"""From what a user writes on a command line to a reward function."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tea.rewards.base import RewardFunction, reward_fingerprint, reward_source
from tea.rewards.verifiers import VERIFIERS


def load_reward(spec: str, **model_options: Any) -> RewardFunction:
    """The reward function that `spec` names.

    Args:
        spec: one of
            a verifier's name, "exact_match", "contains_answer", "last_number" or "math_verify";
            a check of form, "regex:PATTERN", "length:50-200", "think_answer_format", "json_schema:FILE", "ifeval"
            (:mod:`tea.rewards.checks`, :mod:`tea.rewards.ifeval`);
            unit tests in a sandbox, "python_tests" (:mod:`tea.rewards.sandbox`);
            "reasoning_gym", or one of its tasks, "reasoning_gym:chain_sum" (:mod:`tea.rewards.gym`);
            a Python function, "package.module:function", "package.module.function" or "path/to/file.py:function";
            a server, "vllm:URL", "sglang:URL", "openrlhf:URL" (:mod:`tea.rewards.servers`) or one of your own,
            "https://..." (:class:`tea.rewards.RemoteReward`); more servers and options follow after commas,
            "vllm:http://a:8000,http://b:8000,model=org/name,concurrency=64";
            a language model as judge, "judge:URL,model=NAME,rubric=FILE" (:class:`tea.rewards.JudgeReward`);
            a sequence-classification model, a local directory or a hub id ("org/name"), options after commas,
            "org/name,device=cuda:1,dtype=bfloat16,quantization=4bit" (:class:`tea.rewards.RewardModel`).
            "cache:FILE:" before any of them keeps its scores on disk (:class:`tea.rewards.CachedReward`),
            "quantile:FILE:" calibrates it (:class:`tea.rewards.CalibratedReward`).
            All of it may be preceded by "name=" to give the reward another name.
        **model_options: passed to :class:`tea.rewards.RewardModel` (batch_size, device, dtype, ...).

    Raises:
        ValueError: nothing of that kind can be found (the message says what was tried), or the function cannot be
            called.
        ImportError: a package that the reward needs is not installed (the message names the extra).
    """
    name, separator, target = spec.partition("=")
    if not separator or not name.replace("_", "").replace("-", "").isalnum():
        name, target = "", spec
    if not target:
        raise ValueError(f"reward {spec!r} is empty after its name")
    if target in VERIFIERS:
        return _renamed(VERIFIERS[target], name)
    prefix, _, rest = target.partition(":")
    if prefix in ("cache", "quantile"):
        return _named(_wrapped(spec, prefix, rest, model_options), name)
    if prefix in _NAMED:
        return _named(_NAMED[prefix](rest), name)
    if prefix in ("vllm", "sglang", "openrlhf", "judge", "http", "https"):
        return _server(spec, prefix, rest, name)
    path, _, attribute = target.rpartition(":")
    if path.endswith(".py"):
        return _renamed(_from_file(Path(path), attribute), name)
    model, *settings = target.split(",")
    if not Path(target).is_dir() and settings and ("/" in model or Path(model).is_dir()):
        from tea.rewards.model import RewardModel

        options = _typed_options(spec, RewardModel, dict(_setting(spec, setting) for setting in settings))
        return _model(model, name, {**model_options, **options})
    if Path(target).is_dir():
        return _model(target, name, model_options)
    if path or ("/" not in target and "." in target):
        return _renamed(_from_module(*((path, attribute) if path else target.rpartition(".")[::2])), name)
    if "/" in target:
        return _model(target, name, model_options)
    raise ValueError(
        f"reward {spec!r} is neither a verifier ({', '.join(sorted([*VERIFIERS, *_NAMED]))}), a Python function "
        "(package.module:function or file.py:function), a directory, a hub id (org/name) nor a server (vllm:URL, "
        "sglang:URL, openrlhf:URL, judge:URL, https://...)"
    )


def _model(path: str, name: str, options: dict[str, Any]) -> RewardFunction:
    from tea.rewards.model import RewardModel

    return RewardModel(path, name=name or None, **options)


def _python_tests(column: str) -> RewardFunction:
    from tea.rewards.sandbox import PythonTests

    return PythonTests(column or "tests")


def _gym(task: str) -> RewardFunction:
    from tea.rewards.gym import GymReward

    return GymReward(task)


def _check(function: str) -> Callable[[str], RewardFunction]:
    def make(rest: str) -> RewardFunction:
        from tea.rewards import checks

        if function in ("MathVerifyReward", "think_answer_format_reward") and not rest:
            return cast(RewardFunction, getattr(checks, function)())
        if function == "JSONSchemaReward":
            return checks.JSONSchemaReward.from_file(rest) if rest else checks.JSONSchemaReward()
        return cast(RewardFunction, getattr(checks, function)(rest))

    return make


def _ifeval(kind: str) -> RewardFunction:
    from tea.rewards.ifeval import IFEvalReward

    kinds = set(filter(None, kind.split(":")))
    if not kinds <= {"share", "loose"}:
        raise ValueError(f"ifeval:{kind} should read ifeval, ifeval:share, ifeval:loose or ifeval:share:loose")
    return IFEvalReward(share="share" in kinds, loose="loose" in kinds)


_NAMED: dict[str, Callable[[str], RewardFunction]] = {
    "ifeval": _ifeval,
    "json_schema": _check("JSONSchemaReward"),
    "length": _check("length_reward"),
    "math_verify": _check("MathVerifyReward"),
    "python_tests": _python_tests,
    "reasoning_gym": _gym,
    "regex": _check("regex_reward"),
    "think_answer_format": _check("think_answer_format_reward"),
}


def _wrapped(spec: str, kind: str, rest: str, model_options: dict[str, Any]) -> RewardFunction:
    path, _, inner = rest.partition(":")
    if not path or not inner:
        raise ValueError(f"reward {spec!r} should read {kind}:FILE:REWARD")
    reward = load_reward(inner, **model_options)
    if kind == "cache":
        from tea.rewards.cache import CachedReward

        return CachedReward(reward, path)
    from tea.rewards.calibration import CalibratedReward

    return CalibratedReward.load(reward, path)


def _server(spec: str, prefix: str, rest: str, name: str) -> RewardFunction:
    if prefix in ("http", "https"):
        from tea.rewards.remote import RemoteReward

        urls, options = _split_server(spec, f"{prefix}:{rest}")
        return RemoteReward(urls, **_typed_options(spec, RemoteReward, options), name=name or "remote_reward")
    urls, options = _split_server(spec, rest)
    if prefix == "judge":
        return _judge(spec, urls, options, name)
    from tea.rewards.servers import SERVERS

    return SERVERS[prefix](urls, **_typed_options(spec, SERVERS[prefix], options), name=name or None)


def _judge(spec: str, urls: list[str], options: dict[str, str], name: str) -> RewardFunction:
    from tea.rewards.client import RewardClient
    from tea.rewards.judge import JudgeReward

    model, rubric = options.pop("model", None), options.pop("rubric", None)
    if not model:
        raise ValueError(f"reward {spec!r}: name the judge's model, judge:URL,model=NAME")
    typed = _typed_options(spec, JudgeReward, options, RewardClient)
    if rubric is not None:
        if not Path(rubric).is_file():
            raise ValueError(f"reward {spec!r}: there is no file {rubric!r} with a rubric")
        typed["rubric"] = Path(rubric).read_text(encoding="utf-8")
    return JudgeReward(urls, model, name=name or "judge", **typed)


def _setting(spec: str, text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key.isidentifier():
        raise ValueError(f"reward {spec!r}: {text!r} should read option=value")
    return key, value


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


def _typed_options(spec: str, reward: Any, options: dict[str, str], *more: Any) -> dict[str, Any]:
    """`options` as the types of the parameters' defaults."""
    known: dict[str, inspect.Parameter] = {}
    for cls in (*more, *reversed(reward.__mro__)):
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
            if isinstance(default, bool):
                result[key] = {"true": True, "false": False}[value.lower()]
            elif isinstance(default, (int, float)):
                result[key] = type(default)(value)
            elif isinstance(default, tuple):
                result[key] = tuple(value.split("+"))
            else:
                result[key] = int(value) if key in ("max_length", "batch_tokens") else value
        except (ValueError, KeyError):
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise ValueError(f"reward {spec!r}: {key} must be {kind}, got {value!r}") from None
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
