"""Every block of code and every command in README and docs runs, or says why not (tests/docs/commands.py)."""

import contextlib
import os
import re
from unittest import SkipTest

import pytest

from tests.docs import commands
from tests.install.lowest import ROOT

pytest.importorskip("sybil")

from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "configs" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
LANGUAGES = {"python", "bash", "text", "yaml", "json"}  # text and yaml are shown, not run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("docs")
    commands.write_folder(path)
    done = {}
    here = os.getcwd()
    os.chdir(path)
    try:
        for name, options in (("eval", []), ("eval_grpo", ["--seed", "2"])):
            words = ["eval", "outputs/tea", "--dataset", "prompts.jsonl", "--reward", "org/reward-model", "-n", "64"]
            commands.run(["tea", *words, "--output-dir", f"outputs/{name}", *options], done)
    finally:
        os.chdir(here)
    return path, done


@pytest.fixture
def on_a_cpu(monkeypatch):
    """What is not in the examples: no GPU, two steps, a few tokens of the 512 that are the default."""
    from tea.trainers import TEAConfig

    original = TEAConfig.__init__
    sizes = {"use_cpu": True, "bf16": False, "max_completion_length": 8, "max_steps": 2}
    monkeypatch.setattr(TEAConfig, "__init__", lambda self, *a, **options: original(self, *a, **{**sizes, **options}))


def sybil(done):
    def command(example):
        for words in commands.split(example.parsed):
            commands.run(words, done)

    return Sybil([PythonCodeBlockParser(), CodeBlockParser("bash", command), SkipParser()])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_page_runs(page, folder, on_a_cpu, monkeypatch):
    path, done = folder
    monkeypatch.chdir(path)
    monkeypatch.syspath_prepend(str(path))
    document = sybil(done).parse(page)
    for example in document.examples():
        with contextlib.suppress(SkipTest):  # the page says why
            example.evaluate()
    if page.name == "README.md" and page.parent == ROOT:
        trainer = document.namespace["trainer"]
        assert trainer.state.global_step == 2
        assert trainer.args.generation_batch_size == trainer.num_generations == 16
        assert (path / "outputs" / "tea" / "training.png").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_escapes(page):
    """Code is fenced and says its language, else nothing would run it."""
    text = re.sub(r"^```(\w+)\n.*?^```$", lambda m: f"({m[1]})", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert "```" not in text, "a fence without a language, or one that is indented"
    assert not re.findall(r"\n\n {4}\S.*", text), "indented code: fence it, with its language"
    assert all(len(reason) > 8 for reason in re.findall(r"<!-- skip: next(.*?)-->", text)), "say why it is not run"
    assert set(re.findall(r"^\((\w+)\)$", text, re.MULTILINE)) <= LANGUAGES


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert all(alt for alt in re.findall(r'<img alt="([^"]*)"|!\[([^\]]*)\]', "\n".join(lines)))


def test_a_wrong_command_is_found(folder, monkeypatch):
    path, _ = folder
    monkeypatch.chdir(path)
    for wrong in ("tea curve rewards.jsonl --no-such-option", "make no-such-target", "pip install 'tea-rl[nothing]'"):
        with pytest.raises((AssertionError, KeyError, commands.subprocess.CalledProcessError)):
            commands.run(next(commands.split(wrong)), {})
    with pytest.raises(KeyError):
        commands.run(["frobnicate"], {})
