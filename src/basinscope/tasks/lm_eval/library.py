"""The package lm-eval: imported when first asked for, and run without leaving traces.

lm-eval seeds the global generators, prints, logs and draws progress bars. Whatever of it is run
inside `undisturbed` finds the generators seeded as its own command line seeds them, and the caller
finds them as they were.
"""

from __future__ import annotations

import functools
import io
import logging
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from basinscope.errors import BasinscopeError

SEED: Final = 0  # of `random`, as lm-eval's command line sets it
OTHER_SEED: Final = 1234  # of numpy and torch, and of the worked examples
_LOUD: Final = ("lm_eval", "datasets", "huggingface_hub", "fsspec", "urllib3", "httpx")


@dataclass(frozen=True)
class Library:
    """What is used of lm-eval.

    Args:
        version: of the package; stands in the scoring of every task.
        root: folder with its own tasks.
        tasks, index, yaml, task, instance, metrics, registry, utils: its modules.
    """

    version: str
    root: Path
    tasks: Any
    index: Any
    yaml: Any
    task: Any
    instance: Any
    metrics: Any
    registry: Any
    utils: Any


@functools.cache
def library() -> Library:
    """lm-eval, imported.

    Raises:
        BasinscopeError: If it is not installed, or not as we know it.
    """
    names = {
        "tasks": "tasks", "index": "tasks._index", "yaml": "tasks._yaml_loader",
        "task": "api.task", "instance": "api.instance", "metrics": "api.metrics",
        "registry": "api.registry", "utils": "utils",
    }  # fmt: skip
    try:
        with _silent():
            package = import_module("lm_eval")
            modules = {key: import_module(f"lm_eval.{name}") for key, name in names.items()}
    except ImportError as error:
        raise BasinscopeError(
            f"tasks named lm-eval:... need the package lm-eval ({error})",
            "version 0.4.13 or later",
            "pip install 'basinscope[lm-eval]'",
        ) from error
    root = Path(str(modules["tasks"].__file__)).resolve().parent
    return Library(package.__version__, root, **modules)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run lm-eval's code: seeded as by its command line, in silence, templates in a sandbox.

    *Guarantee*: the global generators of random, numpy and torch (where it is loaded), the two
    output streams, the warnings and the levels of the loggers are afterwards what they were.
    """
    torch: Any = sys.modules.get("torch")
    state, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    bits = torch.get_rng_state() if torch else None
    utils = library().utils
    templates = utils.env
    try:
        random.seed(SEED)
        np.random.seed(OTHER_SEED)  # noqa: NPY002
        utils.env = _sandboxed(templates)
        with _silent():
            yield
    finally:
        utils.env = templates
        random.setstate(state)
        np.random.set_state(numbers)  # noqa: NPY002
        if torch:
            torch.set_rng_state(bits)


@functools.cache
def _sandboxed(templates: Any) -> Any:
    """Environment with the same settings whose templates cannot reach Python's internals."""
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        loader=templates.loader,
        undefined=templates.undefined,
        keep_trailing_newline=templates.keep_trailing_newline,
    )
    environment.filters.update(templates.filters)
    # lm-eval compiles a template again for every document and worked example
    environment.from_string = functools.lru_cache(1024)(environment.from_string)  # type: ignore
    return environment


@contextmanager
def _silent() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    sink = io.StringIO()
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(), redirect_stdout(sink), redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
