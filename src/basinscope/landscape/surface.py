"""Planes through theta0: surfaces of 0-1 scores, paths of checkpoints on them, and angles.

A surface shows one plane of a space of d dimensions. Where two directions are drawn anew, it is
another plane; nothing that it shows holds for other planes (for that, see the draws of a
`basinscope.landscape`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from basinscope import stats
from basinscope.directions import planes, words
from basinscope.directions.base import Direction
from basinscope.directions.planes import Plane
from basinscope.errors import BasinscopeError, typed
from basinscope.runs.bench import Bench, Unit
from basinscope.runs.models import Model, engine_of
from basinscope.runs.plan import check
from basinscope.runs.session import Progress, open_session
from basinscope.runs.spec import PlaneSpec, RunSpec, displacements
from basinscope.runs.store import Store, Trial
from basinscope.tasks.base import Task
from basinscope.tasks.words import tasks as tasks_of

if TYPE_CHECKING:
    import pandas as pd


@typed
def surface(
    model: Model,
    tasks: str | Task | Sequence[str | Task],
    x: str | Direction,
    y: str | Direction,
    *,
    xs: Sequence[float],
    ys: Sequence[float],
    orthogonal: bool = False,
    run: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Surface:
    r"""Score tasks over a plane of weights, :math:`\theta_0 + s\,x + t\,y`.

    Both axes are in units of step: ``x`` and ``y`` have norm sqrt(d), random ones on average
    (Li et al. 2018, arXiv 1712.09913, without their filter normalisation, which would break the
    link between the step and the standard deviation of noise).

    Args:
        model: an engine, or what `basinscope.load` takes.
        tasks: words or objects, as in `basinscope.tasks`; all of them are scored at each point.
        x: direction, word or object (its draw 0; see `basinscope.directions.planes.Drawn`).
        y: the other direction.
        xs: positions along x; sorted, each measured once.
        ys: positions along y.
        orthogonal: take of y only what is orthogonal to x, so that right angles in the picture
            are right angles between weights.
        run: run folder; a folder with the same model, items and plane is resumed and may grow.
        workers: as in `basinscope.landscape`.
        progress: as in `basinscope.landscape`.

    Returns:
        The surface of everything that the run folder holds.

    Raises:
        BasinscopeError: an empty grid, positions that are not finite, directions that are the
            same or parallel, a foreign run folder, a disk that cannot be written.

    Guarantee: as `basinscope.landscape`: every point is a record under the hash of what determines
    it, killed and resumed runs and any number of workers give the same bytes.
    Cost: one pass over the weights and one evaluation of every task for each point that is not
    measured yet; one pass over both directions before.
    """
    many = tasks_of(tasks)
    grid = [_positions("xs", xs), _positions("ys", ys)]
    a, b = words.direction(x), words.direction(y)
    check(many, [a, b], None, 1, 0.5, workers)
    engine = engine_of(model, run, kind="surface")
    plane = Plane(a, b, orthogonal)
    axes = plane.axes
    cosine = float(planes.cosines(engine, axes)[0, 1])
    if 1.0 - cosine**2 < planes.PARALLEL**2:
        raise BasinscopeError(
            f"{a.label} and {b.label} are parallel",
            "two directions that span a plane",
            "another axis",
        )
    points = [(s, t) for t in grid[1] for s in grid[0]]
    moved = [plane.at(*point) for point in points if point != (0.0, 0.0)]
    bench = Bench.of(engine, moved or [a], many)  # theta0 alone is a grid too
    spec = RunSpec(
        kind="surface",
        model=bench.model,
        tasks=bench.task_specs,
        directions=tuple(axis.label for axis in axes),
        draws=1,
        steps=None,
        level=0.5,
        displacements=displacements(engine, [a, b]),
        plane=PlaneSpec(x=axes[0].label, y=axes[1].label, cosine=cosine, xs=grid[0], ys=grid[1]),
    )
    every = tuple(range(len(many)))
    units = [Unit(n, 0, 1.0, every) for n in range(len(moved))]
    if len(moved) < len(points):
        units.insert(0, Unit(None, 0, 0.0, every))
    with open_session(
        bench, spec, run, workers=workers, units=len(units), progress=progress, where=_coordinates
    ) as session:
        session.measure(units)
    store = session.store
    return Surface(store.spec, store.trials(), store.set_aside)


def read_surface(run: str | Path) -> Surface:
    """Surface of a run folder, without its model; see `basinscope.load_run`."""
    store = Store(run).of_kind("surface")
    return Surface(store.spec, store.trials(), store.set_aside)


class Surface:
    """Records of a surface, as a table and pictures.

    Attributes:
        spec: what was planned; ``spec.plane`` is the plane.
        trials: what was measured.
        set_aside: records that did not verify, with the reason.
    """

    def __init__(
        self, spec: RunSpec, trials: Iterable[Trial], set_aside: Sequence[str] = ()
    ) -> None:
        assert spec.plane is not None
        self.spec, self.plane = spec, spec.plane
        self.trials = tuple(trials)
        self.set_aside = tuple(set_aside)

    def to_pandas(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """One row for each task and point, by y and then x.

        Columns: task, x, y, n (items), correct, score, low, high. The interval is exact
        (Clopper-Pearson) for the score on items like these *at this point of this plane*; it holds
        for each cell alone, not for all of them at once.
        """
        import pandas as pd

        exact = cache(stats.clopper_pearson)
        rows = []
        for trial in self.trials:
            i = exact(sum(trial.correct), trial.n, confidence)
            counts = (trial.n, sum(trial.correct), trial.score, i.low, i.high)
            rows.append((trial.task, *_place(trial), *counts))
        order = {task.name: n for n, task in enumerate(self.spec.tasks)}
        rows.sort(key=lambda row: (order[row[0]], row[2], row[1]))
        names = ["task", "x", "y", "n", "correct", "score", "low", "high"]
        return pd.DataFrame(rows, columns=names)

    def plot(self, path: str | Path, *, trajectory: pd.DataFrame | None = None) -> Path:
        """Draw a heat map with contours to a PNG, PDF or SVG, with its CSV beside it.

        Args:
            path: of the figure.
            trajectory: from `trajectory`, to be drawn over it.
        """
        from basinscope.report.surfaces import plot_surface

        return plot_surface(Path(path), self.to_pandas(), self.plane, trajectory=trajectory)

    def plot_3d(self, path: str | Path, *, trajectory: pd.DataFrame | None = None) -> Path:
        """Write an HTML page with the surface to turn about; needs the extra ``html`` (plotly).

        The page needs no network; its CSV lies beside it. Arguments as `plot`.
        """
        from basinscope.report.surfaces import plot_surface_3d

        return plot_surface_3d(Path(path), self.to_pandas(), self.plane, trajectory=trajectory)


def trajectory(
    model: Model,
    x: str | Direction,
    y: str | Direction,
    models: Sequence[str | Path | Direction] | str | Path,
    *,
    orthogonal: bool = False,
) -> pd.DataFrame:
    """Where checkpoints lie in a plane, and how much of their way from theta0 lies out of it.

    Each is projected to the nearest point of the plane. That hides what is orthogonal to it: the
    model at (x, y) of the surface is the checkpoint only if the residual is 0, so the residual
    stands beside.

    Args:
        model: gives theta0; an engine, or what `basinscope.load` takes.
        x: direction, word or object.
        y: the other direction.
        models: checkpoints in order: folders (of adapters as well), or directions that a model is
            behind. A folder with ``checkpoint-N`` folders in it stands for these, by N;
            that of `basinscope.finetune` for its checkpoints and the model at the end.
        orthogonal: as in `surface`.

    Returns:
        Columns label, x, y (units of step), distance (||theta' - theta0||), out (||.|| of what is
        out of the plane) and residual (out / distance, 0 to 1); the first row is theta0.

    Raises:
        BasinscopeError: a model that does not fit, or parallel directions.

    Cost: three passes over every checkpoint and two over both directions for each.
    """
    import pandas as pd

    listed = [models] if isinstance(models, str | Path) else list(models)
    plane = Plane(words.direction(x), words.direction(y), orthogonal)
    engine = engine_of(model)
    rows: list[tuple[str, float, float, float, float, float]] = [("start", 0, 0, 0, 0, 0)]
    for checkpoint in (one for word in listed for one in _checkpoints(word)):
        line = words.direction_of(checkpoint)
        point = planes.project(engine, plane, line)
        distance = line.displacement
        assert distance is not None
        label = Path(checkpoint).name if isinstance(checkpoint, str | Path) else line.label
        rows.append((label, *point[:2], distance, point.residual, point.residual / distance))
    return pd.DataFrame(rows, columns=["label", "x", "y", "distance", "out", "residual"])


def cosines(model: Model, directions: Sequence[str | Direction]) -> pd.DataFrame:
    """Cosines between directions, by label: symmetric, ones on the diagonal.

    Between independent random directions a cosine is 0 up to a standard deviation of 1/sqrt(d):
    ``.attrs["reference"]``. Of a direction with several draws the first is taken.

    Args:
        model: gives theta0; an engine, or what `basinscope.load` takes.
        directions: words or objects.

    Raises:
        BasinscopeError: fewer than two directions, equal labels, or one that does not fit.

    Cost: one pass over each direction.
    """
    import pandas as pd

    lines = words.directions(directions)
    labels = labels_of(lines)
    engine = engine_of(model)
    table = pd.DataFrame(planes.cosines(engine, lines), index=labels, columns=labels)
    table.attrs["reference"] = 1 / math.sqrt(engine.d)
    return table


def labels_of(directions: Sequence[Direction]) -> list[str]:
    """Labels of at least two directions, each named once; else BasinscopeError."""
    labels = [direction.label for direction in directions]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise BasinscopeError(
            f"directions: {labels}", "two or more, each once", "random:1, random:2"
        )
    return labels


def _positions(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """Sorted, each once, without the sign of a zero."""
    if not len(values) or not all(math.isfinite(v) for v in values):
        raise BasinscopeError(
            f"{name}={list(values)}", "finite numbers", f"{name}=[-0.01, 0, 0.01]"
        )
    return tuple(sorted({float(v) + 0.0 for v in values}))


def _place(trial: Trial) -> tuple[float, float]:
    """Coordinates of a trial; they stand in its label (see `planes.Point`)."""
    if trial.direction is None:
        return 0.0, 0.0
    x, _, y = trial.direction.removeprefix("plane:").partition(":")[0].partition(",")
    return float(x), float(y)


def _coordinates(trial: Trial) -> str:
    return ", ".join(f"{c:.4g}" for c in _place(trial))


def _checkpoints(model: str | Path | Direction) -> Sequence[str | Path | Direction]:
    """Checkpoints of a training run's folder, by their steps; anything else stands for itself."""
    if not isinstance(model, str | Path):
        return [model]
    own = _numbered(Path(model) / "checkpoints", "step")
    return [*own, model] if own else _numbered(Path(model), "checkpoint") or [model]


def _numbered(folder: Path, word: str) -> list[Path]:
    """Folders ``word-N`` by N."""
    found = {
        int(match[1]): path
        for path in folder.glob(f"{word}-*")
        if (match := re.fullmatch(rf"{word}-(\d+)", path.name))
    }
    return [found[n] for n in sorted(found)]
