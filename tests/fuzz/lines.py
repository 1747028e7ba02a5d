"""Command lines by the program's own grammar, with values right, wrong and absurd.

    python -m tests.fuzz.lines --seed 1 --lines 2000
    python -m tests.fuzz.lines --seed 1 --only 137      # one line again, with its traceback

Commands and options are read from the application itself. Of every value it is known whether it must
be refused whatever stands beside it (`BAD`). Every line must end with code 0 or 2 within `LIMIT_S`; a
refusal is one line with its three parts, leaves no file, and comes before a model is loaded. What loads
(`Loaded`) is stopped there: what follows is no matter of words any more.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import run_folders
import toys

from basinscope import cli

LIMIT_S, LIMIT_BYTES = 20, 3 << 30


class Loaded(BaseException):
    """A model is about to be read."""


class Hang(BaseException):
    """It takes too long."""


# --- values -------------------------------------------------------------------------------------

ODD = (
    "", " ", "0", "-0", "1e-320", "1e300", "1e18", "999999999999999999999999", "3", "0.3", "nan", "é", "日本",
    "\u202eabc", "\x1b[31mred", "a\nb", "\udcff", "x" * 5000, "../..", "/", ".", "~", "~nobody/x", "a:b:c", "a,b",
    "=", "--", "-", "-x", "%s", "{}", "$(id)", "text.txt/x", "/dev/null", "/dev/full", "/proc/1/mem", "mine", "loop",
    "model", "0,1", "1:2:3", "true", "None", "[1]", "basic", "random", "to:model", "9" * 400,
)  # fmt: skip

BAD_BY_TYPE = {
    int: ("x", "", "nan", "-1", "\udcff"),
    float: ("x", "", "nan", "inf", "-inf", "1,5", "é"),
    bool: ("maybe", "2x"),
}

BAD_NUMBERS = {
    "0": ("draws", "limit", "workers", "batch", "outcomes", "items-per-draw", "starts", "sigma", "confidence",
          "radius", "lr", "epochs", "precision", "share", "level"),
    "-1": ("sigma", "confidence", "claim", "target", "level", "share", "tau", "radius", "lr", "pull", "epochs",
           "precision"),
    "2": ("confidence", "share", "level", "claim", "target"),
}  # fmt: skip

BAD_WORDS: dict[str, tuple[str, ...]] = {
    "tasks": ("codee", "", ",", "básic", "basic,nosuch", "nll:gone.txt", "nll:", "mmlu:nosuch", "nll:mine"),
    "direction": ("sideways", "", "to:", "to:./gone", "random:x", "random:-1", "quantised:99", "quantised:x", "pruned:2",
                  "pruned:nan", "saved:gone", "saved:mine", "merge:a", "merge:./gone+model", "adapter:/no/such", "to:text.txt/x"),
    "x": ("sideways", "", "to:./gone", "quantised:99", "random:1.5"),
    "y": ("sideways", "", "to:./gone", "quantised:99", "random:1.5"),
    "geometry": ("sphere", "", "params:(", "subspace:gone", "lora:./gone", "random-subspace:x", "lora-xs:0"),
    "steps": ("1:0:3", "", "a", "0,inf", "nan", "0:1:99999999999", "0:1:-3", "0:1:2:3", ","),
    "xs": ("1:0:3", "", "a", "0,inf", "nan", "0:1:99999999999"),
    "ys": ("1:0:3", "", "a", "0,inf", "nan", "0:1:99999999999"),
    "sigmas": ("1:0:3", "", "a", "0,inf", "0", "-1", "0.1,0.1"),
    "budget": ("", "x", "-5m", "0s", "nan", "nans", "5 parsecs", "1e999h"),
    "measure": ("mth", "basic,nosuch", "nll:gone.txt"),
    "load": ("revison=x", "trust_remote_code=maybe", "token_budget=few", "token_budget=-1", "=", "", "params=("),
    "set": ("warm=1", "lora_r", "=", "", "accumulate=x", "accumulate=0", "max_tokens=-1", "warmup=nan"),
    "device": ("toaster", "cuda:x", "cuda:99", "mps", "é"),
    "dtype": ("int4", "double", "é"),
    "recipe": ("safty", "é"),
    "data": ("./gone.json", "bad.jsonl", "mine", "text.txt"),
    "method": ("x",), "mode": ("x",), "compute": ("x",), "lost": ("x",),
    "reference": ("nosuch",),
    "stay-within": ("mine", "gone", "text.txt", "corrupt", "land"),
    "trajectory": (),
    "MODEL": ("./gone", "", "fake.gguf", "text.txt", "/no/such", "loop"),
    "RUN": ("gone", "mine", "text.txt", "", "corrupt", "later", "text.txt/x", "loop"),
    "RECIPE": ("twin-1", "gone.yaml", "bad.yaml", "", "mine", "fake.gguf", "deep.yaml"),
    "TASK": ("nosuch", ""),
}  # fmt: skip

GOOD: dict[str, tuple[str, ...]] = {
    "tasks": ("basic", "basic,math", "mini", "nll:long.txt", "code"),
    "direction": ("random", "random:7", "to:model", "quantised:8", "pruned:0.5", "merge:0.3*model+0.7*org/name"),
    "x": ("random:3", "to:model"), "y": ("random:5", "quantised:8"),
    "geometry": ("isotropic", "rms", "random-subspace:3"),
    "steps": ("0,0.01", "-0.03:0.03:5"), "xs": ("0,0.1", "-1:1:3"), "ys": ("0,0.1", "-1:1:3"),
    "sigmas": ("0.01", "0.01,0.02"), "budget": ("90s", "5m"), "measure": ("math", "math,code"),
    "load": ("params=.*", "trust_remote_code=false", "token_budget=64"), "set": ("accumulate=2", "warmup=0.1"),
    "device": ("cpu", "auto"), "dtype": ("float32", "auto"), "recipe": ("safety", "benign"), "data": ("d.jsonl",),
    "data-dir": ("data",), "run": ("new", "runs/x"), "reference": ("adamw",), "stay-within": ("cert",),
    "trajectory": ("model",), "only": ("adamw",), "output": ("new",), "figure": ("new.png", "frontier"),
    "confidence": ("0.9", "0.99"), "level": ("0.5",), "share": ("0.9",), "tau": ("0", "0.1"), "target": ("0.5",),
    "claim": ("0.5",), "sigma": ("0.01",), "precision": ("0.1",), "epochs": ("1",), "lr": ("1e-4",), "pull": ("1",),
    "radius": ("1.5",), "step": ("0", "0.5"), "MODEL": ("./model", "org/name", "model"),
    "RECIPE": ("recipe.yaml", "twin-0.2m"), "TASK": ("positive",),
}  # fmt: skip

RUNS = {"verdict": ("cert",), "compare": ("widen",), "strata": ("land",)}


class Value(NamedTuple):
    """A word, and whether it must be refused."""

    text: str
    bad: bool = False


def value(rng: random.Random, command: str, argument: Any) -> Value:
    """A value of an argument: mostly right, else known to be wrong, else whatever."""
    name = argument.name.lstrip("-")
    kind = next((k for k in (bool, int, float) if k.__name__ in str(argument.hint)), str)
    if kind is not str and "Literal" in str(argument.hint):
        kind = str
    bad = [
        *BAD_BY_TYPE.get(kind, ()),
        *(text for text, names in BAD_NUMBERS.items() if name in names),
    ]
    if kind is str or name not in ("steps",):
        bad += BAD_WORDS.get(name, ())
    if command == "verdict" and name == "draws":
        bad.remove("0")
    if name == "OTHERS":
        bad += ["./gone", "quantised:99"] if command == "verdict" else ["gone", "mine"]
    chance = rng.random()
    if chance < 0.1 and bad:
        return Value(rng.choice(bad), True)
    if chance < 0.17:
        return Value(rng.choice(ODD))
    if name == "RUN":
        return Value(rng.choice(RUNS.get(command, ("land", "cert", "widen", "attack", "finetune"))))
    if name == "OTHERS":
        return Value(
            rng.choice(("quantised:8", "to:model") if command == "verdict" else ("land", "widen"))
        )
    if kind is int or (name == "steps" and kind is not str):
        return Value(rng.choice(("1", "2", "40", "200")))
    choices = re.findall(r"'(\w+)'", str(argument.hint)) if "Literal" in str(argument.hint) else ()
    return Value(rng.choice(choices or GOOD.get(name, ("0.5", "x"))))


class Line(NamedTuple):
    """Words, and those of them that must be refused."""

    words: list[str]
    bad: list[str]


def grammar() -> dict[str, list[Any]]:
    """Arguments of every command, from the application."""
    return {
        name: [a for a in cli.app[name].assemble_argument_collection(default_parameter=cli.app.default_parameter)
               if a.names and a.names != ("*",)]
        for name in cli.app if not name.startswith("-")
    }  # fmt: skip


def line(rng: random.Random, commands: dict[str, list[Any]]) -> Line:
    """A command, what it takes, some of its options, now and then something that none takes."""
    command = rng.choice(sorted(commands))
    words, bad = [], []

    def add(one: Value, *before: str, joined: bool = False) -> None:
        words.extend([f"{before[0]}={one.text}"] if joined else [*before, one.text])
        if one.bad:
            bad.append(" ".join([*before, one.text]))

    by_place = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL
    for argument in commands[command]:
        if argument.field_info.kind is by_place[0] and rng.random() < 0.97:
            add(value(rng, command, argument))
        elif argument.field_info.kind is by_place[1]:
            for _ in range(rng.choice((0, 1, 1, 2) if command == "verdict" else (0, 0, 1))):
                add(value(rng, command, argument))
    options = [a for a in commands[command] if a.field_info.kind not in by_place]
    chosen = rng.sample(options, min(len(options), rng.choice((0, 1, 2, 3, 5))))
    if rng.random() < 0.05 and chosen:
        chosen.append(chosen[0])
    for argument in chosen:
        name = rng.choice(argument.names)
        if argument.hint is bool:
            words.append(
                name if rng.random() < 0.9 else f"{name}={value(rng, command, argument).text}"
            )
        else:
            add(value(rng, command, argument), name, joined=len(name) > 2)
    if rng.random() < 0.06:
        extra = rng.choice(
            ("--nosuch", "--nosuch=1", "-z", "--help", "-h", "--json", "--run", "--draws", "stray")
        )
        words.insert(rng.randrange(len(words) + 1), extra)
    if rng.random() < 0.02:
        command = rng.choice(("", "nosuch", "Landscape", "--version", "--", "\udcff"))
    return Line(
        [command, *words],
        bad if not {"--help", "-h", "--version", "--"} & {command, *words} else [],
    )


# --- one line -----------------------------------------------------------------------------------


def make_place(folder: Path) -> None:
    """Files and folders that lines name."""
    for kind in ("landscape", "certificate", "attack", "widen", "finetune"):
        name = {"landscape": "land", "certificate": "cert"}.get(kind, kind)
        run_folders.MAKE[kind](folder / name)
    toys.write_checkpoint(folder / "model")
    for name in ("mine", "data"):
        (folder / name).mkdir()
    (folder / "mine" / "thesis.tex").write_text("do not lose me")
    (folder / "text.txt").write_text("hello")
    (folder / "long.txt").write_text("the cat sat on the mat. " * 50)
    (folder / "bad.jsonl").write_text("{broken\n")
    (folder / "bad.yaml").write_text("a: [")
    (folder / "deep.yaml").write_text("[" * 5000)
    (folder / "recipe.yaml").write_text(json.dumps({
        "model": {"layers": 1, "width": 16, "heads": 2}, "tokenizer": 300, "text": {"files": ["long.txt"]},
        "tokens": 7680, "context": 16, "batch": 8, "lr": 0.02, "methods": ["adamw"], "seeds": [0],
    }))  # fmt: skip
    (folder / "d.jsonl").write_text(json.dumps({"instruction": "a", "output": "b"}) + "\n")
    (folder / "fake.gguf").write_bytes(b"GGML" + bytes(100))
    (folder / "cut.gguf").write_bytes(b"GGUF\3")
    (folder / "loop").symlink_to("loop")
    for name in ("corrupt", "later"):
        shutil.copytree(folder / "cert", folder / name)
    (folder / "corrupt" / "run.json").write_text("{")
    header = json.loads((folder / "later" / "run.json").read_text())
    (folder / "later" / "run.json").write_text(json.dumps(header | {"format": 99}))


def stopped(*_: object, **__: object) -> None:
    """In the place of what would read a model, or a data set of the hub, or train."""
    raise Loaded


def touched(path: Path, *_: object, **__: object) -> Path:
    """In the place of a figure, which takes a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG")
    return path


@contextlib.contextmanager
def no_models() -> Iterator[None]:
    """Whatever would load a model or train one stops instead."""
    with contextlib.ExitStack() as stack:
        for name in (
            "transformers.AutoModelForCausalLM.from_pretrained", "transformers.AutoConfig.from_pretrained",
            "transformers.AutoTokenizer.from_pretrained", "huggingface_hub.snapshot_download",
            "basinscope.engines.base.Engine.__init__", "basinscope.widening.tokens.tokenizer_of",
        ):  # fmt: skip
            stack.enter_context(mock.patch(name, stopped))
        for name in ("plot_landscapes", "plot_likelihood", "plot_spread"):
            stack.enter_context(mock.patch(f"basinscope.report.landscapes.{name}", touched))
        stack.enter_context(
            mock.patch(
                "datasets.load_dataset", mock.Mock(side_effect=ConnectionError("no network"))
            )
        )
        stack.enter_context(mock.patch.dict(os.environ, {"HOME": "/nowhere", "COLUMNS": "100"}))
        os.environ.pop("BASINSCOPE_DATA", None)
        yield


class Ended(NamedTuple):
    """How a line ended: its code, ``loaded``, or what was raised."""

    code: int | str
    out: str
    err: str
    trace: str = ""


def ended(words: Sequence[str]) -> Ended:
    """Run a line in this process, with streams that are as strict as a terminal's."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    code, trace = 0, ""
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            cli.main(list(words))
        except SystemExit as end:
            code = end.code
        except Loaded:
            code = "loaded"
        except BaseException as error:
            frames = [
                f for f in traceback.extract_tb(error.__traceback__) if "/basinscope/" in f.filename
            ]
            where = (
                f"{frames[-1].filename.rpartition('/basinscope/')[2]}:{frames[-1].name}"
                if frames
                else "?"
            )
            code, trace = f"{type(error).__name__} in {where}", traceback.format_exc(limit=-12)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "replace"))
    return Ended(code, *texts, trace)


ONE_LINE = re.compile(r"error: [^\n]+; allowed: [^\n]+; try: [^\n]+\n")


def fault(one: Line, end: Ended, left: set[str]) -> str:
    """What is wrong with how a line ended; nothing if all is well.

    Args:
        one: the line.
        end: how it ended.
        left: files that were not there before.
    """
    if end.code not in (0, 2, "loaded"):
        return str(end.code)
    if one.bad and end.code != 2:
        return f"{'loaded' if end.code else 'accepted'} in spite of {one.bad[0].split('=')[0].split(' ')[0]}"
    if end.code == 2:
        if not ONE_LINE.fullmatch(end.err):
            return "a refusal that is not one line of three parts"
        if not end.err[:-1].isprintable():
            return "a refusal that is not printable"
        if end.out:
            return "a refusal with output"
        if left:
            return f"a refusal that leaves files ({sorted(left)[0]})"
    if end.code == 0:
        if any(c not in "\n\t" and not c.isprintable() for c in end.out):
            return "output that is not printable"
        if "--json" in one.words and not {"--help", "-h", "--version"} & set(one.words):
            try:
                assert isinstance(json.loads(end.out), dict)
            except (ValueError, AssertionError):
                return "--json without one object"
    return ""


def listed(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def fuzz(seed: int, numbers: Sequence[int]) -> Iterator[tuple[int, Line, Ended, str]]:
    """Lines by number, how they ended, and what is wrong with that."""
    commands = grammar()

    def hang(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, hang)
    with (
        tempfile.TemporaryDirectory() as folder,
        no_models_after(make_place, Path(folder) / "original"),
    ):
        original, here = Path(folder) / "original", Path(folder) / "here"
        before: set[str] = set()
        for number in numbers:
            rng = random.Random(f"{seed}:{number}")
            one = line(rng, commands)
            if not here.exists():
                shutil.copytree(original, here, symlinks=True)
                before = listed(here)
            os.chdir(here)
            end = ended(one.words)
            os.chdir(folder)
            left = listed(here) - before
            yield number, one, end, fault(one, end, left)
            if end.code in (0, "loaded") or left:
                shutil.rmtree(here)


@contextlib.contextmanager
def no_models_after(make: Callable[[Path], None], folder: Path) -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        make(folder)
    with no_models():
        yield


def main(words: Sequence[str] | None = None) -> int:
    """The long form: counts of endings, and a line of each fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--only", type=int, help="this line alone, with its traceback")
    given = parser.parse_args(words)
    numbers = range(given.lines) if given.only is None else [given.only]
    size = next(
        row
        for row in Path("/proc/self/status").read_text().splitlines()
        if row.startswith("VmSize")
    )
    resource.setrlimit(
        resource.RLIMIT_AS, (int(size.split()[1]) * 1024 + LIMIT_BYTES, resource.RLIM_INFINITY)
    )
    codes: Counter[str] = Counter()
    refused = 0
    faults: dict[str, list[tuple[int, Line, Ended]]] = {}
    for number, one, end, wrong in fuzz(given.seed, numbers):
        codes[str(end.code) if end.code in (0, 2, "loaded") else "raised"] += 1
        refused += bool(one.bad)
        if wrong:
            faults.setdefault(wrong, []).append((number, one, end))
        if given.only is not None:
            print(one, end, sep="\n")
            print(end.trace)
    print(f"{len(numbers)} lines, seed {given.seed}: endings {dict(codes)}; {refused} had to be refused; "
          f"{sum(map(len, faults.values()))} faults")  # fmt: skip
    for wrong, cases in sorted(faults.items(), key=lambda item: -len(item[1])):
        number, one, end = cases[0]
        print(
            f"{len(cases):5} {wrong}: {ascii(' '.join(one.words))[:300]} (--only {number}) {ascii(end.err)[:200]}"
        )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
