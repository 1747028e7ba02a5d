"""``python -m basinscope.cli``."""

from basinscope.cli import main

main()
