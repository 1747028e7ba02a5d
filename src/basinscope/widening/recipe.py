"""Recipes of widening: what is trained, on what, with which methods, and what is measured."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from basinscope.errors import BasinscopeError, nearest
from basinscope.files import ordinary

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

TOKENS_PER_PARAMETER = 20
"""Tokens of a Chinchilla-optimal run for each parameter (arXiv 2203.15556, table 3)."""

MOST_PARTS = 100_000
"""Keys and values of a recipe."""

OWN_RECIPES = Path(__file__).parent / "recipes"


class RecipePart(BaseModel):
    """A part of a recipe: fixed, and knows no other keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Shape(RecipePart):
    """Shape of a GPT-2: its context is the recipe's, its vocabulary the tokenizer's."""

    layers: Count
    width: Count
    heads: Count
    init_std: Positive = (
        0.02  # GPT-2's own, for a width of 768; narrow models learn faster with more
    )

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width}", f"a multiple of heads {self.heads}", "another width"
            )
        return self

    def parameters(self, vocabulary: int, context: int) -> int:
        """Number of parameters with tied embeddings.

        >>> Shape(layers=12, width=768, heads=12).parameters(50257, 1024)
        124439808
        """
        w = self.width
        return (vocabulary + context) * w + self.layers * (12 * w * w + 13 * w) + 2 * w


class Text(RecipePart):
    """A text, from files of the data folder or from a data set of the Hugging Face hub."""

    files: tuple[str, ...] = ()  # paths or patterns, in the data folder or beside the recipe
    dataset: str | None = None  # hub id
    config: str | None = None
    split: str = "train"
    columns: tuple[str, ...] = ("text",)  # joined by a line break
    characters: Count | None = None  # that are read of each file, from its beginning
    about_tokens: Count | None = None  # of a data set, for the dry run, which does not load it
    hold_out: Annotated[float, Field(gt=0, lt=0.5)] = 0.05  # share kept for validation

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.files) == (self.dataset is not None):
            raise ValueError(
                f"files={self.files}, dataset={self.dataset}", "one of the two", "files"
            )
        if self.dataset is not None and self.characters is not None:
            raise ValueError("characters with a dataset", "with files", "leave characters out")
        return self


class Measure(RecipePart):
    """What is measured of trained weights (`basinscope.widening.measure`)."""

    windows: Count = 64  # of validation text, for width and score
    validation: Count = 256  # of validation text, for the NLL
    draws: Count = 8
    level: Annotated[float, Field(gt=0, lt=1)] = 0.5
    seed: Seed = 0
    over_training: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()  # shares of the steps
    over_draws: Count = 4


class Entry(RecipePart):
    """One method of a recipe; settings that are not given are the recipe's own."""

    name: str
    options: Mapping[str, float | int | str | bool | None] = {}
    label: str | None = None
    lr: Positive | None = None
    lr_schedule: str | None = None
    warmup: NotNegative | None = None
    weight_decay: NotNegative | None = None
    stop: Annotated[float, Field(gt=0, le=1)] | None = None  # early: share of the row's steps

    @field_validator("label")
    @classmethod
    def _label(cls, word: str | None) -> str | None:
        if word is not None and not (word.isprintable() and re.search(r"[A-Za-z0-9]", word)):
            raise ValueError(
                f"label {word!r}", "one line with a letter or a digit in it", "leave it out"
            )
        return word

    @field_validator("lr_schedule")
    @classmethod
    def _schedule(cls, word: str | None) -> str | None:
        return None if word is None else check_schedule(word)


class Training(RecipePart):
    """Settings of one stage of training."""

    context: Annotated[int, Field(ge=2)]
    batch: Count  # windows in a step over all processes and micro-batches
    accumulate: Count = 1  # micro-batches in a step
    lr: Positive
    lr_schedule: str = "cosine"
    warmup: NotNegative = 0.02  # steps, or below 1 their share
    weight_decay: NotNegative = 0.1
    betas: tuple[Share, Share] = (0.9, 0.95)
    clip: Positive | None = 1.0  # norm
    compute: Literal["float32", "bfloat16"] = "bfloat16"

    @field_validator("lr_schedule")
    @classmethod
    def _schedule(cls, word: str) -> str:
        return check_schedule(word)

    @model_validator(mode="after")
    def _micro_batches(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch {self.batch}",
                f"a multiple of accumulate {self.accumulate}",
                "another batch",
            )
        return self


class Tuning(RecipePart):
    """Fine-tuning of every trained row on another text, to see what it forgets."""

    text: Text
    steps: Count
    batch: Count = 16
    lr: Positive = 1e-3
    lr_schedule: str = "constant"
    warmup: NotNegative = 0.0
    weight_decay: NotNegative = 0.0
    repeat: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    method: Entry = Entry(name="adamw")
    points: Annotated[int, Field(ge=2)] = 14  # measured on the way, evenly in the log of the step

    @field_validator("lr_schedule")
    @classmethod
    def _schedule(cls, word: str) -> str:
        return check_schedule(word)

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, given: Any) -> Any:
        return entry(given)


class Hardware(RecipePart):
    """What the dry run reckons with."""

    flops: Positive = 312e12  # peak of one GPU at the recipe's precision, a second
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.4
    gpus: Count = 8
    memory_gb: Positive = 80.0


class Recipe(Training):
    """A study: the same model trained by several methods over several seeds."""

    about: str = ""
    model: Shape
    tokenizer: Count | str  # size of a BPE trained on the text, or a hub id or folder
    vocabulary: Count | None = None  # of a tokenizer that is not here, for the dry run
    text: Text
    tokens: Count | None = None
    chinchilla: Positive | None = None  # tokens in units of 20 a parameter
    repeat: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0  # most passes over the text
    attention: Literal["eager", "sdpa"] = "sdpa"
    methods: tuple[Entry, ...]
    seeds: tuple[Seed, ...] = (0,)
    equal: Literal["tokens", "passes", "wall"] = "tokens"
    checkpoint_every: Count = 500  # steps
    measure: Measure = Measure()
    finetune: Tuning | None = None
    hardware: Hardware | None = None

    @field_validator("methods", mode="before")
    @classmethod
    def _methods(cls, given: Any) -> Any:
        return tuple(entry(one) for one in given) if isinstance(given, (list, tuple)) else given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.tokens is None) == (self.chinchilla is None):
            raise ValueError(
                f"tokens={self.tokens}, chinchilla={self.chinchilla}",
                "one of the two",
                "chinchilla: 1",
            )
        if not self.methods:
            raise ValueError("methods is empty", "at least one", "adamw")
        if not self.seeds:
            raise ValueError("seeds is empty", "at least one", "0")
        for key, many in (("seeds", self.seeds), ("methods", self.methods)):
            if len({str(one) for one in many}) < len(many):
                raise ValueError(f"{key} names one twice", "each once", "leave out the second")
        return self


def entry(given: Any) -> Any:
    """A method as a recipe may write it, spelt out.

    ``adamw``, ``{go: {sigma: 0.01}}`` or ``{name: go, options: {sigma: 0.01}, lr: 0.01}``.

    >>> entry({"go": {"sigma": 0.01}})
    {'name': 'go', 'options': {'sigma': 0.01}}
    """
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, dict) and len(given) == 1 and "name" not in given:
        ((name, options),) = given.items()
        if options is None or isinstance(options, dict):
            return {"name": name, "options": options or {}}
    return given


def check_schedule(word: str) -> str:
    """The word, if it names a schedule of the learning rate.

    ``constant``; ``linear`` or ``cosine`` to zero; ``wsd:SHARE``, constant until the last share of
    the steps, then linear to zero.
    """
    kind, _, share = word.partition(":")
    if word in ("constant", "linear", "cosine"):
        return word
    try:
        if kind == "wsd" and 0.0 < float(share) <= 1.0:
            return word
    except ValueError:
        pass
    raise ValueError(
        f"{word!r}", "constant, linear, cosine, wsd:SHARE with 0 < SHARE <= 1", "wsd:0.2"
    )


def shipped() -> list[str]:
    """Names of the recipes that come with the program."""
    return sorted(path.stem for path in OWN_RECIPES.glob("*.yaml"))


def read(word: str | Path | Mapping[str, Any] | Recipe) -> tuple[Recipe, Path | None]:
    """A recipe by name, path or content, and the folder beside which its files may lie.

    Raises:
        BasinscopeError: unknown recipe; not YAML; a key or value that is not allowed.
    """
    if isinstance(word, Recipe):
        return word, None
    if isinstance(word, Mapping):
        return _validated(dict(word), "the recipe"), None
    own = OWN_RECIPES / f"{word}.yaml"
    path = own if str(word) in shipped() else Path(word).expanduser()
    try:
        content = yaml.safe_load(ordinary(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise BasinscopeError(
            f"no recipe {str(word)!r}",
            f"{', '.join(shipped())}, or the path of a .yaml file",
            nearest(str(word), shipped()),
        ) from None
    except OSError as error:
        raise BasinscopeError(
            f"cannot read the recipe {path} ({error.strerror})",
            "a readable file",
            "mend its permissions",
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BasinscopeError(
            f"recipe {path} is not YAML ({reason[:160]})", "keys with values", "mend the file"
        ) from None
    if not isinstance(content, dict):
        raise BasinscopeError(
            f"recipe {path} holds no keys",
            ", ".join(Recipe.model_fields),
            f"one of the recipes {', '.join(shipped())} as a pattern",
        )
    return _validated(content, f"recipe {path.name}"), path.absolute().parent


def _validated(content: dict[str, Any], name: str) -> Recipe:
    try:
        return Recipe.model_validate(_tuples(content, itertools.count()))
    except ValidationError as error:
        raise _first_wrong(error, name) from None
    except (ValueError, RecursionError) as error:  # a part of itself, too
        raise BasinscopeError(f"{name}: {error}", "keys with values", "mend it") from None


def _tuples(value: Any, count: Iterator[int]) -> Any:
    """Lists as tuples (a recipe is strict about all else), numbers such as 1e-3 as YAML misses.

    Raises:
        ValueError: more parts than any recipe has: YAML's aliases multiply.
    """
    if next(count) > MOST_PARTS:
        raise ValueError(f"it has more than {MOST_PARTS:,} parts")
    if isinstance(value, list):
        return tuple(_tuples(one, count) for one in value)
    if isinstance(value, dict):
        return {str(key): _tuples(one, count) for key, one in value.items()}
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value


_EXPONENT = re.compile(r"\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 wants 1.0e-3 for 1e-3


def _first_wrong(error: ValidationError, name: str) -> BasinscopeError:
    """The first fault of a recipe in one line; unknown keys before all others."""
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        fields = _fields_at(fault["loc"][:-1])
        return BasinscopeError(
            f"{name}: unknown key {place!r}",
            ", ".join(fields),
            nearest(str(fault["loc"][-1]), fields),
        )
    if fault["type"] == "missing":
        return BasinscopeError(
            f"{name}: the key {place!r} is missing", "a value: it has no default", f"add {place}"
        )
    if fault["type"] == "value_error":
        wrong, allowed, try_ = fault["ctx"]["error"].args
        return BasinscopeError(": ".join(filter(None, (name, place, wrong))), allowed, try_)
    allowed = fault["msg"].removeprefix("Input should be ").replace("valid tuple", "valid list")
    value = "" if isinstance(fault["input"], dict) else f" {fault['input']!r:.80}"
    return BasinscopeError(f"{name}: {place}{value}", allowed, f"another value of {place}")


def _fields_at(place: tuple[int | str, ...]) -> list[str]:
    """Keys that a recipe knows at a place."""
    here: Any = Recipe
    for part in place:
        if isinstance(part, int):
            continue
        field = here.model_fields.get(part)
        here = _PARTS.get(str(part), here) if field is not None else here
    return list(here.model_fields)


_PARTS: dict[str, type[RecipePart]] = {
    "model": Shape,
    "text": Text,
    "measure": Measure,
    "methods": Entry,
    "method": Entry,
    "finetune": Tuning,
    "hardware": Hardware,
}
