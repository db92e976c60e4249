import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from tea.rewards import CachedReward, CalibratedReward, JudgeReward, RewardServerError, WeightedReward, load_reward
from tea.rewards.calibration import prompt_key
from tests.reference.reward_servers import RewardServer


def length(completions, **kwargs):
    """Number of characters; none for the empty text."""
    return [float(len(text)) if text else None for text in completions]


# --- calibration ---


def test_calibration_is_the_quantile_by_brute_force():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 6, 40).astype(float)
    reward = CalibratedReward(length, list(base))
    for count in range(8):
        text = "x" * count
        expected = None if count == 0 else (np.sum(base < count) + np.sum(base == count) / 2 + 0.5) / 41
        assert reward(["p"], [text]) == [pytest.approx(expected)]
    assert reward.__name__ == "length_quantile"


def test_calibrated_rewards_of_the_base_policy_are_uniform():
    # Best of N of the calibrated reward of the base policy has the mean N / (N + 1) of N uniform numbers.
    rng = np.random.default_rng(1)
    scores = rng.gumbel(size=20_000)
    reward = CalibratedReward(lambda completions, **_: [float(c) for c in completions], list(scores[:10_000]))
    values = np.array(reward(["p"] * 10_000, [repr(float(x)) for x in scores[10_000:]]))
    best = values.reshape(-1, 8).max(axis=1)
    assert abs(best.mean() - 8 / 9) < 4 * best.std() / np.sqrt(len(best))


def test_calibration_by_prompt_is_stored(tmp_path):
    chat = [{"role": "user", "content": "b"}]
    base = {"a": [1.0, 2.0, None], prompt_key(chat): [10.0, float("nan"), 20.0]}
    reward = CalibratedReward(length, base)
    assert reward(["a", chat], ["xx", "xx"]) == [pytest.approx(2 / 3), pytest.approx(0.5 / 3)]
    with pytest.raises(KeyError, match="no base rewards for the prompt"):
        reward(["c"], ["x"])
    reward.save(tmp_path / "new" / "base.json")
    again = CalibratedReward.load(length, tmp_path / "new" / "base.json")
    assert again(["a", chat], ["xx", "xx"]) == reward(["a", chat], ["xx", "xx"])
    assert again.fingerprint == reward.fingerprint
    with pytest.raises(ValueError, match=r"calibrates .*length, not .*last_number"):
        CalibratedReward.load(load_reward("last_number"), tmp_path / "new" / "base.json")
    for nothing in ([], {}, {"a": [None]}):
        with pytest.raises(ValueError, match="no base rewards"):
            CalibratedReward(length, nothing)


# --- several rewards ---


def test_weighted_sum():
    count = load_reward("regex:o")
    reward = WeightedReward([length, count], [0.5, 10.0])
    assert reward(["p"] * 3, ["fox", "cat", ""]) == [11.5, 1.5, None]
    assert reward.source == f"0.5 * {__name__}:length + 10 * regex:o"
    for weights in ([1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match=f"2 rewards and {len(weights)} weights"):
            WeightedReward([length, count], weights)
    with pytest.raises(ValueError, match="no rewards"):
        WeightedReward([])


# --- the cache ---


class _Counting:
    __name__ = "counting"
    source = "counting"

    def __init__(self, fingerprint="1"):
        self.fingerprint = fingerprint
        self.asked = []

    def __call__(self, prompts, completions, bonus=None, **kwargs):
        self.asked += completions
        return [
            None if not c else len(c) + (b or 0)
            for c, b in zip(completions, bonus or [0] * len(completions), strict=True)
        ]


def test_the_cache_asks_once(tmp_path):
    reward = _Counting()
    cached = CachedReward(reward, tmp_path / "cache.sqlite")
    assert cached(["p"] * 4, ["a", "bb", "a", ""]) == [1, 2, 1, None]
    assert sorted(reward.asked) == ["", "a", "bb"]
    again = CachedReward(_Counting(), tmp_path / "cache.sqlite")
    assert again(["p"] * 3, ["bb", "", "ccc"], other=7) == [2, None, 3]
    assert again.reward.asked == ["ccc"]
    assert (again.hits, again.misses) == (2, 1)
    # Another prompt, another fingerprint, another reward: asked anew.
    again(["q"], ["a"])
    other = CachedReward(_Counting("2"), tmp_path / "cache.sqlite")
    other(["p"], ["a"])
    assert (again.reward.asked, other.reward.asked) == (["ccc", "a"], ["a"])


def test_the_cache_tells_columns_apart(tmp_path):
    # By default whatever comes along counts: a verifier's answer, for one.
    verified = load_reward(f"cache:{tmp_path}/verified.sqlite:exact_match")
    assert verified(prompts=["p"] * 2, completions=["a", "a"], answer=["a", "b"]) == [1.0, 0.0]
    assert verified(prompts=["p"], completions=["a"], answer=["b"], completion_ids=[[1]]) == [0.0]
    assert verified.hits == 1

    cached = CachedReward(_Counting(), tmp_path / "cache.sqlite", columns=["bonus"])
    assert cached(["p"], ["a"], bonus=[1], other=["x"]) == cached(["p"], ["a"], bonus=[1], other=["y"]) == [2]
    cached.reward.asked.clear()
    assert cached(["p"] * 2, ["a", "a"], bonus=[3, 2]) == [4, 3]
    assert cached(["p"] * 2, ["a", "a"], bonus=[2, 3]) == [3, 4]
    assert len(cached.reward.asked) == 2
    with pytest.raises(KeyError, match="needs column 'bonus'"):
        cached(["p"], ["a"])


def test_the_cache_is_bounded_and_keeps_what_is_used(tmp_path):
    cached = CachedReward(_Counting(), tmp_path / "cache.sqlite", max_entries=10)
    for i in range(30):
        cached(["p", "p"], ["keep", f"text {i}"])
    with sqlite3.connect(tmp_path / "cache.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM scores").fetchone() == (10,)
    assert cached.reward.asked.count("keep") == 1
    with pytest.raises(ValueError, match="max_entries must be at least 1"):
        CachedReward(length, tmp_path / "x.sqlite", max_entries=0)
    (tmp_path / "other").write_text("not a data base, but long enough to be taken for one" * 100)
    with pytest.raises(ValueError, match="is not a cache of rewards"):
        CachedReward(length, tmp_path / "other")

    class Anonymous:
        __name__ = "anonymous"

        def __call__(self, **kwargs):
            return [0.0]

    with pytest.raises(ValueError, match="has no fingerprint"):
        CachedReward(Anonymous(), tmp_path / "x.sqlite")(["p"], ["a"])


def _fill(path, start):
    cached = CachedReward(_Counting(), path)
    for i in range(start, start + 60, 5):
        cached(["p"] * 10, [f"text {j}" for j in range(i, i + 10)])


def test_processes_share_the_cache(tmp_path):
    path = tmp_path / "cache.sqlite"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(path, start)) for start in (0, 20, 40)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    cached = CachedReward(_Counting(), path)
    texts = [f"text {i}" for i in range(100)]
    assert cached(["p"] * 100, texts) == [len(text) for text in texts]
    assert cached.reward.asked == []


def test_the_cache_survives_a_kill(tmp_path):
    path = tmp_path / "cache.sqlite"
    code = (
        "import itertools, sys; from tests.rewards.test_wrappers import _Counting; from tea.rewards import "
        "CachedReward\n"
        f"cached = CachedReward(_Counting(), {str(path)!r})\n"
        "for i in itertools.count():\n    cached(['p'], [f'text {i}']); print(i, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    while int(process.stdout.readline()) < 20:
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    cached = CachedReward(_Counting(), path)
    assert cached(["p"] * 20, [f"text {i}" for i in range(20)]) == [len(f"text {i}") for i in range(20)]
    assert cached.reward.asked == []
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- the judge ---


class _Judge(RewardServer):
    """Answers as a chat model that gives the number in the response as its score, and only if reminded for "shy"."""

    def __init__(self):
        self.bodies = []
        super().__init__("judge", None)

    def post(self, path, body):
        if path != "/v1/chat/completions":
            return 404, {}
        self.bodies.append(body)
        response = body["messages"][0]["content"].split("[Response]")[-1].split("[")[0].split()[0]
        if response == "shy" and len(body["messages"]) < 3:
            answer = "I would rather not say."
        else:
            answer = f"Score: 2 at first sight. But:\n**Score:** {response if response[0].isdigit() else 7}"
        return 200, {"choices": [{"message": {"role": "assistant", "content": answer}}]}


def test_judge():
    rubric = "[Request]{prompt}\nKnown: {answer}\n[Response] {completion} [end]"
    with _Judge() as server:
        judge = JudgeReward(server.url, "some/judge", rubric=rubric, retries=1)
        assert judge(["p"] * 2, ["9 {answer}", "3.5"], answer=["A", "B"]) == [9.0, 3.5]
        bodies = sorted(body["messages"][0]["content"] for body in server.bodies)
        assert bodies == [
            "[Request]p\nKnown: A\n[Response] 9 {answer} [end]",
            "[Request]p\nKnown: B\n[Response] 3.5 [end]",
        ]
        assert {(body["model"], body["temperature"]) for body in server.bodies} == {("some/judge", 0)}
        with pytest.warns(UserWarning, match="1 answers without a score; 0 of 1"):
            assert judge(["p"], ["shy"], answer=["A"]) == [7.0]
        with pytest.warns(UserWarning, match="2 answers without a score; 1 of 2"):
            assert judge(["p"] * 2, ["11", "10"], answer=["A", "B"]) == [None, 10.0]
        assert (judge.unparsable, judge.missing) == (3, 1)
        with pytest.raises(KeyError, match="names column 'answer'"):
            judge(["p"], ["1"])
        spec = load_reward(f"judge:{server.url},model=some/judge,maximum=20,concurrency=2")
        chat = [{"role": "user", "content": "p"}]
        assert spec(prompts=[chat], completions=[[{"role": "assistant", "content": "11"}]]) == [11.0]
    with RewardServer("own", len) as server, pytest.raises(RewardServerError, match="404"):
        JudgeReward(server.url, "some/judge")(["p"], ["1"])


def test_judge_refuses(tmp_path):
    for options, message in (
        ({"rubric": "Score it."}, "has no {completion}"),
        ({"minimum": 2.0, "maximum": 2.0}, "range is empty"),
        ({"pattern": "Score"}, "exactly one group"),
    ):
        with pytest.raises(ValueError, match=message):
            JudgeReward("http://host", "m", **options)
    with pytest.raises(ValueError, match="name the judge's model"):
        load_reward("judge:http://host")
    with pytest.raises(ValueError, match="no file"):
        load_reward("judge:http://host,model=m,rubric=missing.txt")
    (tmp_path / "rubric.txt").write_text("{completion}?")
    assert load_reward(f"judge:http://host,model=m,rubric={tmp_path}/rubric.txt").rubric == "{completion}?"
    assert load_reward("judge:http://host,model=m").source == "judge:http://host"
