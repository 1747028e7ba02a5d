"""basinscope measures, certifies and widens the capability basins of language models.

See the README for the two commands to begin with, and the docstrings of the names below.
"""

from importlib.metadata import PackageNotFoundError, version

from basinscope.attack.collapse import Collapse, collapse_radius
from basinscope.attack.run import Attack, Proxy, attack
from basinscope.certify import (
    Certificate,
    StrictBasin,
    TokenCertificate,
    Verdict,
    certify,
    certify_tokens,
    load_certificate,
    load_strict_basin,
    random_subspace,
    strict_basin,
    subspace_from_gradients,
    subspace_from_trajectory,
    untied,
)
from basinscope.certify.smoothed import Smoothed, smoothed
from basinscope.comparison.compare import Comparison, compare
from basinscope.directions.adapters import Adapter
from basinscope.directions.base import Direction, Random
from basinscope.directions.compressed import Pruned, Quantised
from basinscope.directions.saved import Saved, save_direction
from basinscope.directions.toward import Merge, Toward
from basinscope.engines.base import Engine
from basinscope.engines.loading import load
from basinscope.errors import BasinscopeError
from basinscope.finetuning.record import held_out
from basinscope.finetuning.run import DivergedError, FineTune, finetune
from basinscope.geometries.words import geometry
from basinscope.landscape import Landscape, interpolation_steps, landscape, load_run
from basinscope.landscape.surface import Surface, cosines, load_surface, surface, trajectory
from basinscope.optim.gaussian import GaussianAugmented
from basinscope.optim.trainer import PerturbedSteps
from basinscope.tasks import tasks
from basinscope.tasks.base import (
    CallableTask,
    Choices,
    Corpus,
    Generate,
    Generation,
    Item,
    Likelihood,
    Outcome,
    Ranking,
    Task,
)
from basinscope.weights.noise import normals
from basinscope.widening.plan import Plan
from basinscope.widening.plan import plan as widen_plan
from basinscope.widening.run import Widening, widen

try:
    __version__ = version("basinscope")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0"

__all__ = [
    "Adapter",
    "Attack",
    "BasinscopeError",
    "CallableTask",
    "Certificate",
    "Choices",
    "Collapse",
    "Comparison",
    "Corpus",
    "Direction",
    "DivergedError",
    "Engine",
    "FineTune",
    "GaussianAugmented",
    "Generate",
    "Generation",
    "Item",
    "Landscape",
    "Likelihood",
    "Merge",
    "Outcome",
    "PerturbedSteps",
    "Plan",
    "Proxy",
    "Pruned",
    "Quantised",
    "Random",
    "Ranking",
    "Saved",
    "Smoothed",
    "StrictBasin",
    "Surface",
    "Task",
    "TokenCertificate",
    "Toward",
    "Verdict",
    "Widening",
    "attack",
    "certify",
    "certify_tokens",
    "collapse_radius",
    "compare",
    "cosines",
    "finetune",
    "geometry",
    "held_out",
    "interpolation_steps",
    "landscape",
    "load",
    "load_certificate",
    "load_run",
    "load_strict_basin",
    "load_surface",
    "normals",
    "random_subspace",
    "save_direction",
    "smoothed",
    "strict_basin",
    "subspace_from_gradients",
    "subspace_from_trajectory",
    "surface",
    "tasks",
    "trajectory",
    "untied",
    "widen",
    "widen_plan",
]
