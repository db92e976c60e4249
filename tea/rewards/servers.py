"""Reward models behind vLLM, SGLang and OpenRLHF servers, with the numbers of the model in process.

A reward model's score is a logit. Servers are built for classifiers and easily return something else: a sigmoid or a
softmax of it, which flattens the upper tail that best-of-N lives on, or the score of another text (a second BOS,
another chat template, a truncated one). None of these is an error to the server. Here each is: the text goes through
the reward model's own chat template on this side, the server's count of tokens is compared with ours, and scores that
look squashed are refused.

Read in the sources of vLLM (``entrypoints/pooling``), SGLang (``srt/entrypoints/http_server.py``) and OpenRLHF
(``cli/serve_rm.py``), autumn 2026.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tea._extras import needs_extra
from tea.rewards.base import Text, reward_text
from tea.rewards.client import API_KEY_VARIABLE, RewardClient, RewardServerError, token_batches
from tea.rewards.remote import check_scores

SQUASHED_AFTER = 8
"""Scores of so many texts, all strictly between 0 and 1, are taken for a sigmoid unless the server shows otherwise."""


class ServedRewardModel:
    """A sequence-classification model behind one or several HTTP servers; the base of the protocols below.

    Args:
        url: the server's address, ``http://HOST:PORT``, or several of servers with the same model, asked round robin.
        name: name of the reward (column name, logs); default: last part of `model`, or "vllm_reward" and the like.
        model: the model that must answer. Default: whichever does; its name is asked for.
        tokenizer: tokenizer and chat template of the reward model, a hub id or path; default: the model's.
        scores: "logits" to refuse scores that look like a sigmoid's or softmax's; "any" for a model whose head truly
            gives numbers between 0 and 1.
        batch_tokens: tokens per request, at most.
        batch_size: texts per request, at most.
        max_length: longest text in tokens; longer ones raise.
        concurrency, timeout, patience, api_key_env: see :class:`tea.rewards.client.RewardClient`.

    Raises:
        ValueError: a bad address or number.
    """

    protocol = ""
    default_max_length: int | None = None
    may_squash = True  # whether such servers have been seen to put a sigmoid or a softmax on the score

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        name: str | None = None,
        model: str | None = None,
        tokenizer: str | Any | None = None,
        scores: str = "logits",
        batch_tokens: int = 16_384,
        batch_size: int = 64,
        max_length: int | None = None,
        concurrency: int = 32,
        timeout: float = 120.0,
        patience: float = 300.0,
        api_key_env: str = API_KEY_VARIABLE,
    ) -> None:
        if batch_size < 1 or batch_tokens < 1:
            raise ValueError(f"batch_size and batch_tokens must be at least 1, got {batch_size} and {batch_tokens}")
        if scores not in ("logits", "any"):
            raise ValueError(f"scores must be 'logits' or 'any', got {scores!r}")
        self.client = RewardClient(
            [url] if isinstance(url, str) else url,
            concurrency=concurrency,
            timeout=timeout,
            patience=patience,
            api_key_env=api_key_env,
        )
        self.expected_model = model
        self.batch_tokens = batch_tokens
        self.batch_size = batch_size
        self.max_length = max_length or self.default_max_length
        self.source = f"{self.protocol}:{self.client.source}"
        self._tokenizer: Any = tokenizer
        self._model: str | None = None  # the name to send, once the server has been asked
        self._prepared = False
        self._raw_known = scores == "any" or not self.may_squash
        self._inside: dict[str, float] = {}  # texts with scores in [0, 1], until one has another
        self.__name__ = name or (model or f"{self.protocol}_reward").rstrip("/").split("/")[-1]

    @property
    def fingerprint(self) -> str:
        """Which model answers: asks the server."""
        self._connect()
        return str(self._model)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`.

        Texts that occur several times are sent once.

        Raises:
            ValueError: conversations, and no chat template; a text longer than `max_length`.
            RewardServerError: another model answers than the expected one, or something else than one raw score per
                text.
            RewardServerGone: no server has answered for `patience` seconds.
        """
        if len(completions) == 0:
            return []
        self._connect()
        texts = [
            reward_text(self._tokenizer, prompt, completion, self.source)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        distinct = list(dict.fromkeys(texts))
        ids = self._token_ids(distinct)
        lengths = [len(text) // 4 + 1 for text in distinct] if ids is None else [len(row) for row in ids]
        self._check_lengths(lengths, ids is not None)
        if not self._prepared:
            self.client.run([lambda: self._prepare(distinct[0])])
            self._prepared = True
        batches = token_batches(lengths, self.batch_tokens, self.batch_size)
        jobs = [
            self._job([distinct[i] for i in batch], None if ids is None else [ids[i] for i in batch])
            for batch in batches
        ]
        scores: dict[str, float] = {}
        for batch, answer in zip(batches, self.client.run(jobs), strict=True):
            scores.update(zip((distinct[i] for i in batch), answer, strict=True))
        self._check_squashed(scores)
        return [scores[text] for text in texts]

    async def _ask(self, texts: list[str], ids: list[list[int]] | None) -> list[float]:
        """The scores of one batch, in its order."""
        raise NotImplementedError

    async def _models(self, server: int) -> list[tuple[str, str]]:
        """The server's models: where each was loaded from, and its name in requests; none if it does not say.

        Raises:
            RewardServerError: a server of another protocol.
        """
        raise NotImplementedError

    async def _prepare(self, text: str) -> None:
        """What has to be found out with a first text."""

    def _job(self, texts: list[str], ids: list[list[int]] | None) -> Callable[[], Awaitable[list[float]]]:
        async def job() -> list[float]:
            return await self._ask(texts, ids)

        return job

    def _connect(self) -> None:
        """Ask every server for its model, once, and load the tokenizer."""
        if self._model is not None:
            return

        def models_of(server: int) -> Callable[[], Awaitable[list[tuple[str, str]]]]:
            async def job() -> list[tuple[str, str]]:
                return await self._models(server)

            return job

        answers = self.client.run([models_of(server) for server in range(len(self.client.urls))])
        expected = self.expected_model or (answers[0][0][1] if answers[0] else None)
        paths = []
        for url, models in zip(self.client.urls, answers, strict=True):
            found = [model for model in models if expected in model]
            if models and not found:
                served = ", ".join(dict.fromkeys(name for model in models for name in model))
                raise RewardServerError(
                    f"{url} serves {served}, not {expected}: start the server with that model, or name the one that it "
                    "has with model="
                )
            paths += [path for path, _ in found]
        if self.expected_model:
            paths.append(self.expected_model)  # last: it may be an alias that the server made up
        if isinstance(self._tokenizer, str) or (self._tokenizer is None and paths):
            self._tokenizer = _load_tokenizer([self._tokenizer] if self._tokenizer else paths, self.source)
        self._model = next(
            (name for models in answers for path, name in models if expected in (path, name)), expected or ""
        )

    def _token_ids(self, texts: list[str]) -> list[list[int]] | None:
        if self._tokenizer is None:
            return None
        return list(self._tokenizer(texts, add_special_tokens=False)["input_ids"])

    def _check_lengths(self, lengths: list[int], exact: bool) -> None:
        longest = max(lengths)
        if exact and self.max_length is not None and longest > self.max_length:
            raise ValueError(
                f"a prompt with its completion is {longest} tokens, more than the {self.max_length} that {self.source} "
                f"takes (max_length=); nothing is cut silently"
            )

    def _check_tokens(self, counted: Any, ids: list[list[int]] | None, first: str) -> None:
        if ids is None or not isinstance(counted, int):
            return
        wanted = sum(len(row) for row in ids)
        if counted != wanted:
            raise RewardServerError(
                f"{self.source} read {counted} tokens where the reward model's tokenizer makes {wanted} of the same "
                f"text ({first[:80]!r}...): it adds or cuts tokens (a second BOS, a truncation) or has another "
                "tokenizer, and scores another text"
            )

    def _check_squashed(self, scores: dict[str, float]) -> None:
        if self._raw_known:
            return
        if any(not 0.0 <= score <= 1.0 for score in scores.values()):
            self._raw_known = True  # no sigmoid gives this
            self._inside.clear()
            return
        self._inside.update(scores)
        count = len(self._inside)
        if count >= 2 and all(score == 1.0 for score in self._inside.values()):
            raise RewardServerError(
                f"{self.source} gave exactly 1.0 to {count} different texts: that is a softmax over one label, not a "
                f"score. {self._remedy()}"
            )
        if sum(0.0 < score < 1.0 for score in self._inside.values()) >= SQUASHED_AFTER:
            raise RewardServerError(
                f"{self.source} gave scores between 0 and 1 to all of {count} different texts: a sigmoid or softmax of "
                f"the reward, which flattens its upper tail. {self._remedy()} If the model's head truly gives such "
                "numbers, say scores=any"
            )

    def _remedy(self) -> str:
        return "Serve the raw logits."

    def _single(self, values: Any) -> float:
        if not isinstance(values, list) or len(values) != 1:
            count = len(values) if isinstance(values, list) else 0
            raise RewardServerError(
                f"{self.source} gave {count} numbers for a text; a reward model has exactly one label (this may be a "
                "classifier or an embedding model)"
            )
        score = check_scores(values, 1, self.source, values)[0]
        if score is None:
            raise RewardServerError(f"{self.source} gave null as the score of a text")
        return float(score)

    def _in_order(self, data: Any, count: int, answer: Any) -> list[dict[str, Any]]:
        """The items of an answer in the order of their "index"."""
        if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
            raise RewardServerError(f"{self.source} answered in another protocol: {str(answer)[:200]}")
        if sorted(item.get("index", -1) for item in data) != list(range(count)):
            raise RewardServerError(
                f"{self.source} must answer with {count} scores, indexed 0 to {count - 1}, got {len(data)}"
            )
        return sorted(data, key=lambda item: item["index"])


class VLLMReward(ServedRewardModel):
    """``vllm serve MODEL --runner pooling``, through ``/classify`` with ``use_activation: false``.

    vLLM's default for one label is a sigmoid. Whether the server heeds the switch is tried on the first text; releases
    that knew it under its older name get that one.
    """

    protocol = "vllm"

    _switch: Mapping[str, bool] = MappingProxyType({"use_activation": False})

    async def _models(self, server: int) -> list[tuple[str, str]]:
        answer = await self.client.get("/v1/models", server)
        try:
            models = [(str(model.get("root") or model["id"]), str(model["id"])) for model in answer["data"]]
            owners = {model.get("owned_by") for model in answer["data"]}
        except (TypeError, KeyError, AttributeError):
            raise RewardServerError(
                f"{self.client.urls[server]} is not a vLLM server: GET /v1/models gave {str(answer)[:100]}"
            ) from None
        if "sglang" in owners:
            raise RewardServerError(f"{self.client.urls[server]} is an SGLang server: use sglang:URL")
        return models

    async def _prepare(self, text: str) -> None:
        if self._raw_known:
            return
        found = [await self._find_switch(text, server) for server in range(len(self.client.urls))]
        if all(found):
            self._raw_known = True
        # Otherwise ignored, or the model has no activation: the scores will tell.
        self._switch = {name: False for name in found if name} or self._switch

    async def _find_switch(self, text: str, server: int) -> str | None:
        """The name under which the server lets the sigmoid be switched off, tried on `text`."""
        for name in ("use_activation", "activation"):
            squashed = (await self._classify([text], None, {name: True}, server))[0]
            raw = (await self._classify([text], None, {name: False}, server))[0]
            if squashed != raw and math.isclose(squashed, 1 / (1 + math.exp(-max(raw, -700.0))), abs_tol=2e-3):
                return name
        return None

    async def _ask(self, texts: list[str], ids: list[list[int]] | None) -> list[float]:
        return await self._classify(texts, ids, self._switch)

    async def _classify(
        self, texts: list[str], ids: list[list[int]] | None, switch: Mapping[str, bool], server: int | None = None
    ) -> list[float]:
        body = {"model": self._model, "input": texts, "add_special_tokens": False, **switch}
        answer = await self.client.post("/classify", body, server)
        data = self._in_order(answer.get("data") if isinstance(answer, dict) else None, len(texts), answer)
        self._check_tokens((answer.get("usage") or {}).get("prompt_tokens"), ids, texts[0])
        return [self._single(item.get("probs")) for item in data]

    def _remedy(self) -> str:
        option = "--pooler-config '{\"use_activation\": false}'"
        return f"This vLLM ignores use_activation in a request: use a newer one, or serve with {option}."


class SGLangReward(ServedRewardModel):
    """``python -m sglang.launch_server --model-path MODEL --is-embedding``, through ``/classify``.

    Not ``/v1/classify``, which takes a softmax over the one label. SGLang adds the tokenizer's special tokens to a
    text: where there are any, token ids are sent instead.
    """

    protocol = "sglang"

    async def _models(self, server: int) -> list[tuple[str, str]]:
        answer = await self.client.get("/model_info", server) or await self.client.get("/get_model_info", server)
        if not isinstance(answer, dict) or "model_path" not in answer:
            raise RewardServerError(
                f"{self.client.urls[server]} is not an SGLang server: it has neither /model_info nor /get_model_info"
            )
        if answer.get("is_generation"):
            raise RewardServerError(
                f"{self.client.urls[server]} serves {answer['model_path']} for generation: start it with --is-embedding"
            )
        return [(str(answer["model_path"]), str(answer["model_path"]))]

    async def _ask(self, texts: list[str], ids: list[list[int]] | None) -> list[float]:
        as_ids = ids is not None and self._tokenizer(texts[0])["input_ids"] != ids[0]
        body = {"model": self._model, **({"input_ids": ids} if as_ids else {"text": texts})}
        answer = await self.client.post("/classify", body)
        if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
            raise RewardServerError(f"{self.source} answered in another protocol: {str(answer)[:200]}")
        if len(answer) != len(texts):
            raise RewardServerError(f"{self.source} must answer with {len(texts)} scores, got {len(answer)}")
        for i, item in enumerate(answer):
            counted = (item.get("meta_info") or {}).get("prompt_tokens")
            self._check_tokens(counted, None if ids is None else [ids[i]], texts[i])
        return [self._single(item.get("embedding")) for item in answer]


class OpenRLHFReward(ServedRewardModel):
    """``python -m openrlhf.cli.serve_rm --reward_pretrain MODEL``, through ``/get_reward``.

    The server cuts texts at its ``--max_len`` (2048 unless set) without a word: give the same number as `max_length`.
    It does not say which model it has: `model` is the tokenizer and template to use, and cannot be checked. It must be
    an OpenRLHF that tokenizes without special tokens; older ones strip the text and append an end token.
    """

    protocol = "openrlhf"
    default_max_length = 2048
    may_squash = False

    async def _models(self, server: int) -> list[tuple[str, str]]:
        return []

    async def _ask(self, texts: list[str], ids: list[list[int]] | None) -> list[float]:
        answer = await self.client.post("/get_reward", {"query": texts})
        rewards = answer.get("rewards") if isinstance(answer, dict) else None
        checked = check_scores(rewards, len(texts), self.source, answer)
        return [self._single([reward]) for reward in checked]


def _load_tokenizer(paths: Sequence[str], source: str) -> Any:
    with needs_extra("trl", "the tokenizer of a served reward model"):
        from transformers import AutoTokenizer

    for path in dict.fromkeys(paths):
        try:
            return AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:  # noqa: PERF203 - one or two turns
            reason = str(error).splitlines()[0]
    raise ValueError(
        f"the tokenizer of the reward model {paths[0]!r}, which {source} serves, cannot be loaded here: name its hub "
        f"id or a directory with tokenizer= ({reason})"
    )


SERVERS: dict[str, type[ServedRewardModel]] = {cls.protocol: cls for cls in (VLLMReward, SGLangReward, OpenRLHFReward)}
"""The classes by the prefix that :func:`tea.rewards.load_reward` and the command line take."""
