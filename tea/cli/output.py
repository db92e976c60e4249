"""How commands read their input, print, and end on an error.

torch, transformers, scipy and matplotlib are imported inside functions, so that help is instant.
"""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer


@contextmanager
def errors() -> Iterator[None]:
    """Errors that are the user's to fix end with their message and status 2, without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("TEA_TRACEBACK"):
            raise
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def parse_ns(ns: str | None) -> list[int] | None:
    """The value of ``--ns`` as numbers; None where it was not given."""
    if ns is None:
        return None
    try:
        return [int(part) for part in ns.split(",")]
    except ValueError:
        raise ValueError(f"--ns must be whole numbers separated by commas, got {ns!r}") from None


def say_how_read(table: Any) -> None:
    """Print size and notes of a table on stderr."""
    prompts, samples = table.shape
    typer.echo(f"{table.path}: {table.tool}, {prompts} prompts x {samples} samples", err=True)
    for note in table.notes:
        typer.echo(f"note: {note}", err=True)


def print_json(value: dict[str, Any]) -> None:
    """Print `value` as JSON; NaN and infinity are errors."""
    typer.echo(json_module.dumps(value, indent=2, allow_nan=False))


def without_nan(values: dict[str, float]) -> dict[str, float | None]:
    """`values` with None for NaN, which JSON lacks."""
    return {key: value if value == value else None for key, value in values.items()}


def print_curves(curves: dict[str, Any], how: str) -> None:
    """Print a table of curves with intervals, one column each."""
    from tea.report import format_interval

    first = next(iter(curves.values()))
    rows = [
        [str(n), *(format_interval(c.values[i], c.ci_low[i], c.ci_high[i]) for c in curves.values())]
        for i, n in enumerate(first.ns)
    ]
    print_table(
        f"Best of N, {how}: {first.num_prompts} prompts x {first.num_samples} samples, "
        f"{first.level:.0%} intervals over {first.over}",
        ["N", *curves],
        rows,
    )


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table; the first column is aligned left unless it holds numbers."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Intervals stand in brackets, which rich would otherwise read as markup.
    table = Table(title=escape(title), title_justify="left")
    for i, name in enumerate(header):
        table.add_column(escape(name), justify="left" if i == 0 and not rows[0][0].isdigit() else "right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)
