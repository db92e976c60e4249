"""``python -m tests.adapters.frameworks``: install the frameworks, run every check, write the table of the docs."""

import argparse
import re
import sys

from tests.adapters.frameworks import FRAMEWORKS, ROOT
from tests.adapters.frameworks.beside import installs_beside

DOCS = ROOT / "docs" / "frameworks.md"
START, END = "<!-- frameworks -->\n", "<!-- /frameworks -->"


def outcome(framework) -> tuple[bool, str]:
    """Whether nothing failed, and what to say in the table."""
    if error := framework.install():
        return True, f"no: could not be installed ({error})"
    result = framework.run()
    counts = re.findall(r"(\d+) (passed|failed|skipped|error)", (result.stdout.splitlines() or [""])[-1])
    if result.returncode != 0:
        print(result.stdout, result.stderr, file=sys.stderr)
        return False, "**fails**: " + ", ".join(" ".join(count) for count in counts)
    return True, "yes: " + ", ".join(" ".join(count) for count in counts)


def main() -> int:
    """Exit code 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.adapters.frameworks")
    parser.add_argument("names", nargs="*", help="only these, and no table")
    names = parser.parse_args().names
    rows, ok = [], True
    for framework in FRAMEWORKS:
        if names and framework.check not in names:
            continue
        passed, said = outcome(framework)
        ok &= passed
        print(f"{framework.name} {framework.version[:8]}: {said}", flush=True)
        version = f"commit {framework.version[:8]}" if framework.from_github else framework.version
        rows.append(f"| {framework.name} | {version} | {installs_beside(framework)} | {said} | {framework.how} |")
    if not names:
        head = "| framework | version | installs beside | tested through its own path | how |\n|---|---|---|---|---|\n"
        text = DOCS.read_text()
        before, rest = text.split(START)
        DOCS.write_text(before + START + head + "\n".join(rows) + "\n" + END + rest.split(END)[1])
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
