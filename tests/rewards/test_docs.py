"""What docs/rewards.md says is so: its code runs, its defaults are the code's."""

import inspect
import re
from pathlib import Path

import pytest

from tea.rewards import OpenRLHFReward
from tea.rewards.load import _NAMED
from tea.rewards.servers import ServedRewardModel
from tea.rewards.verifiers import VERIFIERS

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_code_runs(block):
    exec(compile(block, "docs/rewards.md", "exec"), {"__name__": "docs"})


def test_every_reward_by_name_is_on_the_page():
    for name in [*VERIFIERS, *_NAMED, "vllm", "sglang", "openrlhf", "judge", "cache", "quantile"]:
        assert f"`{name}" in PAGE, name


def test_the_table_of_options_has_every_option_and_its_default():
    table = PAGE.split("| option | default | meaning |")[1].split("\n\n")[0]
    stated = {}
    for row in table.strip().splitlines()[1:]:
        names, defaults = (re.findall(r"`?([\w.]+)`?", cell) for cell in row.split("|")[1:3])
        stated |= dict(zip(names, defaults if len(defaults) >= len(names) else defaults * len(names), strict=False))
    parameters = inspect.signature(ServedRewardModel.__init__).parameters
    options = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name != "name"}
    assert set(stated) == set(options)
    for name, default in options.items():
        if name == "max_length":
            assert stated[name] == str(OpenRLHFReward.default_max_length)
        elif default is not None:
            assert float(stated[name]) == default if isinstance(default, (int, float)) else stated[name] == default
