"""Harnesses that try what nobody writes down: damaged files, lines without sense, hostile texts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # of toys, where these are run as commands
