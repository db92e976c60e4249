"""``tea merge``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def command(
    run: Annotated[str, typer.Argument(help="Directory of a LoRA run or checkpoint.")],
    output_dir: Annotated[
        Optional[str],  # noqa: UP045 - typer evaluates the annotation, on Python 3.10 too
        typer.Option(help="New directory; default: RUN/merged."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto (the base model's), float32, bfloat16 or float16.")] = "auto",
    trust_remote_code: Annotated[bool, typer.Option(help="Run the code that the base model brings.")] = False,
) -> None:
    """Merge a LoRA adapter into its base model, for tools that take whole models only."""
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        typer.echo(f"error: --dtype must be auto, float32, bfloat16 or float16, got {dtype!r}", err=True)
        raise typer.Exit(2)
    from tea.trainers.errors import UserError
    from tea.trainers.merge import merge_adapter

    try:
        typer.echo(f"merged into {merge_adapter(run, output_dir, dtype, trust_remote_code)}")
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
