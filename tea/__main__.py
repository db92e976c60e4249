"""``python -m tea``."""

from tea.cli import main

main()
