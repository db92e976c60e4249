"""``python -m tea.cli``; for several processes, ``accelerate launch -m tea.cli``."""

from tea.cli import main

main()
