"""Build the site: `make docs`, or

    python -m docs.tools.build      # a minute; build/site/index.html

The pages of the site are the files of the repository, at the same paths, so that a link works on both: README.md, all
of docs/, and whatever file these link to (a README of benchmarks/ becomes a page, a Python file a page with its code).
They are laid out in build/docs. Made here and not written by hand are the pages of the API, one per package with every
public name, the tutorials, from their notebooks, and the page of `tea explain`, from the rewards in docs/assets.
Zensical then builds with --strict: a link to a page, an anchor or a name that does not exist ends the build.
"""

from __future__ import annotations

import html
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tea.report.explain import explain, explanation_page

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
STAGE, SITE = BUILD / "docs", BUILD / "site"
PACKAGES = ("tea", "tea.bestofn", "tea.rewards", "tea.rollouts", "tea.report", "tea.trainers", "tea.adapters")
CODE = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".jsonl": "json", "": "bash"}
FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def links(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and path of every link to a file, code blocks left out."""
    fenced = [match.span() for match in FENCE.finditer(text)]
    for match in LINK.finditer(text):
        outside = "://" in match[2] or match[2].startswith("mailto:")
        if not outside and not any(start <= match.start() < end for start, end in fenced):
            yield match.start(2), match.end(2), match[2]


def sources() -> list[Path]:
    """The files of docs/, without what builds them."""
    files = (path for path in sorted((ROOT / "docs").rglob("*")) if path.is_file())
    return [path for path in files if not {"tools", "__pycache__", ".ipynb_checkpoints"} & set(path.parts)]


def stage() -> None:
    """Lay out README, docs/ and what they link to in build/docs."""
    shutil.rmtree(STAGE, ignore_errors=True)
    made = {f"docs/api/{name}.md": api(name) for name in PACKAGES}
    queue = ["README.md", "CHANGELOG.md", *made, *(path.relative_to(ROOT).as_posix() for path in sources())]
    seen = set(queue)
    while queue:
        name = queue.pop(0)
        source = ROOT / name
        target = STAGE / staged(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if name not in made and not name.endswith((".md", ".ipynb")):
            if target.suffix == ".md":
                target.write_text(code(source), encoding="utf-8")
            else:
                shutil.copy(source, target)
            continue
        text = made.get(name) or (notebook(source) if name.endswith(".ipynb") else source.read_text(encoding="utf-8"))
        parts, last = [], 0
        for start, end, link in links(text):
            path = (source.parent / link).resolve()
            if not path.is_relative_to(ROOT) or not (path.is_file() or path.relative_to(ROOT).as_posix() in made):
                continue  # Zensical says which
            linked = path.relative_to(ROOT).as_posix()
            if linked not in seen:
                seen.add(linked)
                queue.append(linked)
            parts += [text[last:start], link.removesuffix(path.name) + PurePosixPath(staged(linked)).name]
            last = end
        target.write_text("".join([*parts, text[last:]]), encoding="utf-8")
    (STAGE / "docs" / "assets" / "explain.html").write_text(explanation(), encoding="utf-8")


def staged(name: str) -> str:
    """Where a file of the repository lies in build/docs."""
    path = PurePosixPath(name)
    if path.suffix == ".ipynb":
        return str(path.with_suffix(".md"))
    return f"{name}.md" if path.suffix in CODE else name


def code(path: Path) -> str:
    """A page with a file's code."""
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8").rstrip()
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path.name}\n\n`{name}`\n\n````{CODE[path.suffix]}\n{text}\n````\n"


def api(package: str) -> str:
    """A page with every public name of a package."""
    module = importlib.import_module(package)
    introduction = inspect.getdoc(module) or ""
    if package == "tea.adapters":  # a module per framework; each is imported without it
        names = sorted(path.stem for path in (ROOT / "tea" / "adapters").glob("*.py"))
        names = [n for n in names if n not in ("__init__", "framework", "groups", "verl_plugin")]
        introduction = introduction.split("\n")[0]
    else:
        names = [name for name in module.__all__ if not name.startswith("_")]
        introduction = introduction.split("\n\n")[0]
    blocks = [f"# {package}", introduction.replace("``", "`")]
    for name in names:
        value = getattr(module, name, None)
        if value is None or callable(value) or inspect.ismodule(value):
            blocks.append(f"::: {package}.{name}\n    options:\n      heading_level: 2")
        else:
            blocks.append(f"## {name} {{#{package}.{name}}}\n\n`{html.escape(repr(value)[:200], quote=False)}`")
    return "\n\n".join(blocks) + "\n"


def explanation() -> str:
    """The page of `tea explain` that docs/concepts.md shows."""
    given = json.loads((ROOT / "docs" / "assets" / "explain.json").read_text(encoding="utf-8"))
    return explanation_page(explain(given["rewards"], given["target_n"]))


def notebook(path: Path) -> str:
    """A notebook with its outputs as a page; figures lie beside it."""
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(str(path))
    folder = STAGE / path.relative_to(ROOT).parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in resources["outputs"].items():
        (folder / f"{path.stem}_{name}").write_bytes(data)
        text = text.replace(f"![png]({name})", f"![What the code above draws]({path.stem}_{name})")
    return text


def main() -> int:
    """Stage and build; Zensical's exit code."""
    stage()
    zensical = Path(sys.executable).with_name("zensical")
    command = [str(zensical), "build", "--strict", "--clean", "--config-file", str(ROOT / "zensical.toml")]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
