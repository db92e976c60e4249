"""The command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import replace_section, write_json
from benchmarks.training.report import __doc__ as usage
from benchmarks.training.report.common import NOT_RUN
from benchmarks.training.report.figures import FIGURES
from benchmarks.training.report.results import Results, as_json
from benchmarks.training.report.sections import SECTIONS, report, reported
from benchmarks.training.report.short import short
from benchmarks.training.run import ROWS, read_rows

HERE = Path(__file__).resolve().parents[1]


def write(results: Results, folder: Path) -> None:
    """Fill ``folder``'s README.md, and write its figures and results/summary.json; docs/benchmarks.md at home."""
    if folder == HERE:
        replace_section(HERE.parents[1] / "docs" / "benchmarks.md", "training", short(reported(results)))
    texts, summary = report(results)
    results = reported(results)
    for name, (_, _, figures) in SECTIONS.items():
        for figure in figures:
            path = folder / "figures" / f"{figure}.png"
            if texts[name] != NOT_RUN and FIGURES[figure](results, path):
                texts[name] += f"\n\n![{figure}](figures/{path.name})"
            else:
                path.unlink(missing_ok=True)  # of other rows
    for name, text in texts.items():
        replace_section(folder / "README.md", name, text)
    (folder / "results").mkdir(exist_ok=True)
    write_json(folder / "results" / "summary.json", as_json(summary))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.report",
        description=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=Path, default=ROWS, help="the JSONL file of benchmarks.training.run")
    parser.add_argument("--folder", type=Path, default=HERE, help="with the README.md to fill")
    parser.add_argument("--print", action="store_true", dest="show", help="print the tables, write nothing")
    options = parser.parse_args(arguments)
    results = Results(read_rows(options.rows))
    if options.show:
        texts, _ = report(results)
        print("\n\n".join(f"## {name}\n\n{text}" for name, text in texts.items() if text != NOT_RUN) or NOT_RUN)
    else:
        write(results, options.folder)


if __name__ == "__main__":
    main()
