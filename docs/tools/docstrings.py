"""A griffe extension: the few marks of reStructuredText in docstrings become Markdown, which the site is."""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

ROLE = re.compile(r":(?:func|class|mod|meth|attr|data|obj|exc):`~?\.?([^`]+)`")
MATH = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +.*|[ \t]*))*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Roles become code, formulas MathML, which browsers draw without a script."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Translate an object's docstring as it is loaded."""
        if obj.docstring:
            obj.docstring.value = translate(obj.docstring.value)


def translate(text: str) -> str:
    """A docstring in Markdown."""

    def formula(match: re.Match[str]) -> str:
        lines = " ".join(line.strip() for line in match[2].split("\n"))
        tail = "\n\n" if match[2].endswith("\n") else ""
        return f"{match[1]}{convert(lines.strip(), display='block')}{tail}"

    text = MATH.sub(formula, text)
    return ROLE.sub(r"`\1`", text).replace("``", "`")
