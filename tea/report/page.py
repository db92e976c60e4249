"""A comparison as Markdown and as one HTML file, with its figures.

The HTML stands alone (figures inside, no scripts, nothing fetched) and follows the reader's light or dark setting.
"""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tea.report.comparison import Comparison, Pick
from tea.report.figures import ALT, DARK, FIGURES, LIGHT
from tea.report.tables import absent, markdown_table, settings_rows, summary, tables

_SHOWN = 600
"""Characters of a prompt or completion that are shown."""
_LONG = 80
"""Characters of a cell beyond which its column is set as running text."""


def write_report(
    comparison: Comparison, output_dir: str | os.PathLike[str], title: str = "Best-of-N comparison"
) -> Path:
    """Write report.html (stands alone), report.md, its PNG figures (light and dark) and report.json.

    Returns:
        The path of report.html.
    """
    directory = Path(output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, tuple[str, str]] = {}
    sections: dict[str, str] = {}
    for name, draw in FIGURES.items():
        light, dark = draw(comparison, LIGHT), draw(comparison, DARK)
        if light is None or dark is None:
            continue
        for theme, figure in ((LIGHT, light), (DARK, dark)):
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=150)
            write_bytes(directory / f"{name}-{theme.name}.png", buffer.getvalue())
        pictures[name] = _data_uri(light), _data_uri(dark)
        sections[name] = (
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png">'
            f'<img alt="{ALT[name]}" src="{name}-light.png" width="720"></picture>'
        )
    write_bytes(directory / "report.md", _markdown(comparison, title, sections).encode())
    write_bytes(directory / "report.json", json.dumps(comparison.to_dict(), indent=2, allow_nan=False).encode())
    target = directory / "report.html"
    write_bytes(target, _html(comparison, title, pictures).encode())
    return target


def markdown_report(comparison: Comparison) -> str:
    """The tables alone, as Markdown."""
    parts = []
    missing = absent(comparison)
    for (heading, (header, rows)), name in zip(tables(comparison).items(), FIGURES, strict=True):
        if rows:
            parts += [f"### {heading}", "", markdown_table(header, rows), ""]
        elif name in missing:
            parts += [f"### {heading}", "", missing[name], ""]
    parts += [f"- {note}" for note in comparison.notes if "no paired difference" not in note]
    return "\n".join(parts)


def _markdown(comparison: Comparison, title: str, figures: dict[str, str]) -> str:
    parts = [f"# {title}", ""]
    parts += [f"- {sentence}" for sentence in summary(comparison)]
    for (heading, (header, rows)), name in zip(tables(comparison).items(), FIGURES, strict=True):
        if not rows and name not in figures and name not in absent(comparison):
            continue
        parts += ["", f"## {heading}", ""]
        if name in figures:
            parts += [figures[name], ""]
        if rows:
            parts += [markdown_table(header, rows)]
        elif name in absent(comparison):
            parts += [absent(comparison)[name]]
    header, rows = settings_rows(comparison)
    if rows:
        parts += ["", "## How they were sampled", "", markdown_table(header, rows)]
    return "\n".join(parts) + "\n"


def _html(comparison: Comparison, title: str, pictures: dict[str, tuple[str, str]]) -> str:
    """The page; `pictures` are the addresses of each figure, light and dark."""
    sections = [
        {
            "heading": heading,
            "picture": pictures.get(name),
            "alt": ALT[name],
            "header": header,
            "rows": rows,
            "absent": absent(comparison).get(name),
            "long": [i for i in range(len(header)) if any(len(row[i]) > _LONG for row in rows)],
        }
        for (heading, (header, rows)), name in zip(tables(comparison).items(), FIGURES, strict=True)
        if rows or name in pictures or name in absent(comparison)
    ]
    picks: dict[str, list[Pick]] = {}
    for pick in comparison.picks:
        picks.setdefault(pick.prompt, []).append(pick)
    environment = Environment(
        loader=PackageLoader("tea.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2").render(
        title=title,
        sentences=summary(comparison),
        settings=settings_rows(comparison),
        picks=picks,
        shorten=_shorten,
        sections=sections,
        level=f"{comparison.curves[0].level:.0%}",
        sources="; ".join(f"{n}: {s}" for n, s in zip(comparison.names, comparison.sources, strict=True) if s),
    )


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN].rstrip() + " ..."


def _data_uri(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
