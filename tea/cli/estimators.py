"""``tea estimators``."""

from __future__ import annotations


def command() -> None:
    """List the advantage estimators, with what they are and where they are from."""
    from rich.console import Console
    from rich.table import Table

    from tea.estimators import list_estimators

    table = Table("name", "what it is", "source", "options")
    for spec in list_estimators():
        options = [name for name in spec.parameters if name not in ("monotone", "center", "scale")]
        table.add_row(spec.name, spec.summary, spec.source, ", ".join(options))
    Console().print(table)
