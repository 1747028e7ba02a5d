"""The command line: parse, one call, print. Results go to standard output, the rest to error."""

from basinscope.cli import attack as _attack  # noqa: F401  (registers its command)
from basinscope.cli import certify as _certify  # noqa: F401  (registers its command)
from basinscope.cli import check as _check  # noqa: F401  (registers its commands)
from basinscope.cli import compare as _compare  # noqa: F401  (registers its command)
from basinscope.cli import finetune as _finetune  # noqa: F401  (registers its command)
from basinscope.cli import landscape as _landscape  # noqa: F401  (registers its commands)
from basinscope.cli import runs as _runs  # noqa: F401  (registers its commands)
from basinscope.cli import surface as _surface  # noqa: F401
from basinscope.cli import widen as _widen  # noqa: F401  (registers its command)
from basinscope.cli.app import app, main, parse_steps

__all__ = ["app", "main", "parse_steps"]
