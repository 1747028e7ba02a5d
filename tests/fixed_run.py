"""A fixed run of everything: what must not change when files are moved or code is rewritten.

    python tests/fixed_run.py --write before.json      # before the change
    python tests/fixed_run.py --compare before.json    # after it, same machine: bit for bit
    python tests/fixed_run.py --compare before.json --addresses-only    # on another processor

It says which copy of the package it runs; ``PYTHONPATH=src`` makes it this tree's.
Only `import basinscope` is used, never a module inside of it, so that this file outlives any move.
It runs a landscape, two searches, two certificates, an attack, a row of a study and a surface with
toy models, in one thread of this process, and looks at what they leave: the run folders (which are
the program's formats on disk) and the tables.

What is dropped from files before they are compared, since it may differ from call to call or is
not an outcome (`DROPPED`): versions of packages, the machine's name, seconds. Nothing else is: run
folders hold no times of day, and models are named by paths relative to a temporary folder, which
is the working directory meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import toys
from transformers.utils.logging import disable_progress_bar

import basinscope as bs
from basinscope.tasks import Task

DROPPED = (
    "versions",  # of Python and packages, this one too: run.json, widen.json, worst.safetensors
    "machine",  # its architecture: run.json
    "transformers_version",  # config.json and generation_config.json of a row's model
    "train_s", "step_s", "finetune_s",  # seconds: records of rows
)  # fmt: skip

MEASURED = ("rms", "displacements", "cosine")
"""What a plan holds of sums over the weights: their last bits are the processor's."""

RESTS_ON = ("transformers", "tokenizers")
"""Packages whose config and tokenizer stand, hashed, in the address of an answer in text."""


# --- toys ---------------------------------------------------------------------------------------

# of 60 models, that which is best at `basic` (25 of 100: chance); a sample of which it has 9 of 12
MODEL_SEED, SAMPLE_SEED = 38, 106


def uniform(generator: np.random.Generator, shape: Sequence[int], width: float) -> torch.Tensor:
    """Float32 around zero, made of integers alone: the same bits on every processor.

    torch's normals are not: they take another way for other vector units.
    """
    values = (generator.random(tuple(shape)) - 0.5) * width
    return torch.from_numpy(values.astype(np.float32))


def write_model(folder: Path, *, moved: float = 0.0) -> None:
    """Write the folder of a GPT-2 with one layer; ``moved`` makes it another model of that shape.

    GPT-2, since it has no rotary frequencies, which torch computes and an address holds.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=99, n_positions=512, n_embd=32, n_layer=1, n_head=2,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    module = GPT2LMHeadModel(config)
    base, away = np.random.default_rng(MODEL_SEED), np.random.default_rng(1)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            centre = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            parameter.copy_(uniform(base, parameter.shape, 0.5) + centre)
            parameter.add_(uniform(away, parameter.shape, moved))
    module.save_pretrained(folder)
    toys.tiny_tokenizer().save_pretrained(folder)


def language_model() -> bs.Engine:
    """Engine of the folder ``model``, which is written into the working directory."""
    write_model(Path("model"))
    return bs.load("model", dtype="float32", device="cpu")


def basic() -> list[Task]:
    """Twelve items of `basic`, of which the model has nine."""
    return bs.tasks("basic", limit=12, seed=SAMPLE_SEED)


def layer() -> bs.Engine:
    """Engine of one linear layer: 40 weights between 0.5 and 1.5."""
    module = torch.nn.Linear(40, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(uniform(np.random.default_rng(0), (1, 40), 1.0) + 1.0)
    return bs.load(module, device="cpu")


def in_box() -> bs.CallableTask:
    """Item i is right while weight i lies in (0, 2).

    No sum is taken, and noise has the same bits everywhere, and so have the outcomes.
    """
    return bs.CallableTask(
        "in box", lambda m: ((m.weight[0] > 0) & (m.weight[0] < 2)).int().tolist(), n_items=40
    )


WORDS = (
    "the cat dog sun moon sea hill tree bird king queen boat road house red blue old small big "
    "saw found lost loved made kept took gave and but then near under over with"
).split()


def write_text(path: Path, stories: int) -> None:
    """Write walks over `WORDS`, three of which may follow each: there is something to learn."""
    texts = []
    for number in range(stories):
        place, words = 0, []
        for turn in hashlib.sha512(f"{path.name} {number}".encode()).digest():
            place = (3 * place + (1, 2, 7)[turn % 3]) % len(WORDS)
            words.append(WORDS[place])
        texts.append(" ".join(words) + ".")
    path.write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")


RECIPE = {
    "model": {"layers": 1, "width": 16, "heads": 2},
    "tokenizer": 300,
    "text": {"files": ["old.txt"], "hold_out": 0.2},
    "tokens": 60 * 8 * 16,
    "repeat": 6,
    "context": 16,
    "batch": 8,
    "lr": 0.02,
    "compute": "float32",
    "attention": "eager",
    "methods": [{"go": {"sigma": 0.01}}],
    "seeds": [0],
    "checkpoint_every": 10,
    "measure": {"windows": 8, "validation": 16, "draws": 6, "over_training": [0.5],
                "over_draws": 2},
    "finetune": {"text": {"files": ["new.txt"], "hold_out": 0.2}, "steps": 8, "batch": 4,
                 "repeat": 4, "points": 3},
}  # fmt: skip


# --- parts --------------------------------------------------------------------------------------

Tables = dict[str, str]


def landscape() -> Tables:
    """Explicit steps: two random directions of three draws and another checkpoint; a text task."""
    write_model(Path("tuned"), moved=0.1)
    land = bs.landscape(
        language_model(),
        [*basic(), *bs.tasks("safety", limit=3)],
        directions=[bs.Random(0), bs.Random(1), bs.Toward("tuned")],
        steps=[-0.16, -0.04, 0.02, 0.08, 0.16],
        draws=3,
        run="run",
        workers=1,
    )
    return _of_landscape(land) | {
        "variance": _csv(land.variance("basic", "random")),
        "bands": _csv(land.bands("basic", "random")),
    }


def search() -> Tables:
    """Edges of a task of texts.

    Which points a search looks at, and so its addresses, depends on outcomes. None hangs on a
    processor's rounding, some 1e-5 nats: the least margin here is 0.018.
    """
    land = bs.landscape(
        language_model(), basic(), directions=[bs.Random(0)], draws=3, run="run", workers=1
    )
    return _of_landscape(land)


def search_layer() -> Tables:
    """Edges of a function of the module, with the full curve."""
    land = bs.landscape(
        layer(), in_box(), directions=[bs.Random(0)], draws=3, grid=5, run="run", workers=1
    )
    return _of_landscape(land)


def certificate() -> Tables:
    """A certificate of answers in text."""
    cert = bs.certify(
        language_model(), basic()[0],
        sigma=0.02, draws=24, items_per_draw=4, confidence=0.9, seed=3, run="run", workers=1,
    )  # fmt: skip
    return _of_certificate(cert)


def certificate_layer() -> Tables:
    """A claim that antithetic pairs decide early."""
    cert = bs.certify(
        layer(), in_box(),
        sigma=0.3, draws=60, items_per_draw=8, confidence=0.95, claim=0.6, antithetic=True,
        run="run", workers=1,
    )  # fmt: skip
    return _of_certificate(cert)


def attack() -> Tables:
    """A worst direction of six items, and the radius at which they and six others collapse."""
    worst = bs.attack(
        language_model(), basic()[0],
        steps=8, starts=2, limit=6, seed=0, compute="float32", run="run",
    )  # fmt: skip
    return {"summary": _json(worst.summary())}


def widen() -> Tables:
    """One row: trained under noise, measured, fine-tuned."""
    for name, stories in (("old.txt", 60), ("new.txt", 30)):
        write_text(Path(name), stories)
    with mock.patch.dict(os.environ, {"BASINSCOPE_CACHE": str(Path.cwd() / "cache")}):
        study = bs.widen(RECIPE, run="run", data_dir=".", device="cpu")
    return {"rows": _json(_without_dropped([row.model_dump(mode="json") for row in study.rows]))}


def surface() -> Tables:
    """Three by three points of the plane of two random directions."""
    grid = [-0.04, 0.0, 0.04]
    plane = bs.surface(
        language_model(), basic(), bs.Random(0), bs.Random(1), xs=grid, ys=grid, run="run",
        workers=1,
    )  # fmt: skip
    return {"to_pandas": _csv(plane.to_pandas())}


class Part(NamedTuple):
    """One thing that is run.

    Attributes:
        measure: runs it in the working directory, into the folder ``run``; gives its tables.
        everywhere: whether its addresses are the same on every processor. Those of an attack hash
            the direction that was found.
        of_text: whether they hold what `RESTS_ON` makes of a config and a tokenizer.
    """

    measure: Callable[[], Tables]
    everywhere: bool = True
    of_text: bool = True


PARTS = {
    "landscape": Part(landscape),
    "search": Part(search),
    "search of a layer": Part(search_layer, of_text=False),
    "certificate": Part(certificate),
    "certificate of a layer": Part(certificate_layer, of_text=False),
    "attack": Part(attack, everywhere=False),
    "widen": Part(widen),
    "surface": Part(surface),
}


# --- what is left of them -----------------------------------------------------------------------


def collect(name: str) -> dict[str, Any]:
    """Run one part in a temporary folder of its own.

    Returns:
        plans: hash of every plan in the run folder, by file, without what is `MEASURED`.
        addresses: names of the records of trials, sorted.
        hashes: the program's own hash of every plan that has one.
        files: hash of every file of the run folder, without what is `DROPPED`.
        tables: text of every table.
    """
    part = PARTS[name]
    with _place():
        tables = part.measure()
        files = sorted(path for path in Path("run").rglob("*") if path.is_file())
        heads = {
            str(path.relative_to("run")): json.loads(path.read_text(encoding="utf-8"))
            for path in files
            if path.name in ("run.json", "attack.json", "widen.json")
        }
        assert heads, "no plan in the run folder"
        trials = sorted(path.stem for path in files if path.parent.name == "trials")
        assert all(re.fullmatch("[0-9a-f]{64}", address) for address in trials)
        return {
            "plans": {file: _sha256(_plan(head["spec"])) for file, head in heads.items()},
            "addresses": trials,
            "hashes": {file: head["hash"] for file, head in heads.items() if "hash" in head},
            "files": {str(path.relative_to("run")): digest(path) for path in files},
            "tables": tables,
        }


def addresses_only(name: str, part: dict[str, Any]) -> dict[str, Any]:
    """What of a part is the same on every processor."""
    keys = ("plans", "addresses") if PARTS[name].everywhere else ("plans",)
    return {key: part[key] for key in keys}


def versions() -> dict[str, str]:
    """Of the packages that addresses rest on."""
    return {package: version(package) for package in RESTS_ON}


@contextlib.contextmanager
def _place() -> Iterator[None]:
    """An empty working directory, and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            yield
    finally:
        torch.set_num_threads(threads)


def _plan(value: Any) -> Any:
    """A plan without the numbers in it that were measured."""
    return _without(value, MEASURED)


def _without_dropped(value: Any) -> Any:
    return _without(value, DROPPED)


def _without(value: Any, keys: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(one, keys) for key, one in value.items() if key not in keys}
    if isinstance(value, list):
        return [_without(one, keys) for one in value]
    return value


def digest(path: Path) -> str:
    """Hash of a file's bytes, without what is `DROPPED` of it."""
    body = path.read_bytes()
    if path.suffix == ".safetensors":  # 8 bytes, as many of JSON as they say, tensors
        end = 8 + int.from_bytes(body[:8], "little")
        head = json.loads(body[8:end])
        notes = {name: _parsed(text) for name, text in head.pop("__metadata__", {}).items()}
        return _sha256([head, _without_dropped(notes), hashlib.sha256(body[end:]).hexdigest()])
    if path.suffix == ".json":
        content = _parsed(body)
        lasting = _without_dropped(content)
        if lasting != content:  # else the very bytes count
            return hashlib.sha256(json.dumps(lasting).encode()).hexdigest()
    return hashlib.sha256(body).hexdigest()


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _of_landscape(land: bs.Landscape) -> Tables:
    names = ("to_pandas", "items", "means", "widths", "spread", "compare")
    return {name: _csv(getattr(land, name)()) for name in names}


def _of_certificate(cert: bs.Certificate) -> Tables:
    distances = [share * cert.sigma for share in (0.0, 0.5, 2.0)]
    bounds = {
        "lower": [float(cert.lower_bound(r)) for r in distances],
        "weak": [float(cert.lower_bound(r, weak=True)) for r in distances],
        "upper": [float(cert.upper_bound(r)) for r in distances],
    }
    return {"to_json": _json(cert.to_json()), "bounds": _json(bounds), "text": str(cert)}


def _csv(table: Any) -> str:
    """CSV with every digit of a float."""
    return table.to_csv(index=False)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1)


# --- comparison ---------------------------------------------------------------------------------


def first_difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Say what of a part differs first; None if nothing does. Tables come first: they say most."""
    order = ("plans", "hashes", "tables", "addresses", "files")
    for section in (key for key in order if key in before or key in now):
        old, new = before.get(section), now.get(section)
        if old == new:
            continue
        if old is None or new is None:
            return f"{section} are {'new' if old is None else 'gone'}"
        if section == "addresses":
            gone, more = sorted(set(old) - set(new)), sorted(set(new) - set(old))
            first = f"{gone[0]} is gone" if gone else f"{more[0]} is new"
            return f"{len(gone)} addresses are gone and {len(more)} new, of {len(old)}: {first}"
        for name in [*old, *(name for name in new if name not in old)]:
            if old.get(name) != new.get(name):
                return f"{section}, {name}: {_first_line(old.get(name), new.get(name))}"
    return None


def _first_line(old: str | None, new: str | None) -> str:
    """Say in which line two texts differ first."""
    if old is None or new is None:
        return "is new" if old is None else "is gone"
    olds, news = old.splitlines(), new.splitlines()
    for number in range(max(len(olds), len(news))):
        pair = [lines[number] if number < len(lines) else "(end)" for lines in (olds, news)]
        if pair[0] != pair[1]:
            return f"line {number + 1}: {pair[0].strip()} -> {pair[1].strip()}"
    return "ends of lines"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what a run leaves, or compare it with what was written."""
    parser = argparse.ArgumentParser(description="A fixed run, written down or compared.")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", type=Path, metavar="FILE")
    mode.add_argument("--compare", type=Path, metavar="FILE")
    parser.add_argument(
        "--addresses-only", action="store_true",
        help="plans and addresses, which are the same on every processor",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    disable_progress_bar()
    # an installed copy of another tree would compare well with itself
    print(f"basinscope of {Path(bs.__file__).parent}", file=sys.stderr)
    before = None
    if options.compare is not None:
        before = json.loads(options.compare.read_text(encoding="utf-8"))
        for package, wanted in before["versions"].items():
            if versions()[package] != wanted:
                print(f"note: {package} {wanted} -> {versions()[package]}")
    parts, differ = {}, False
    for name in PARTS:
        part = collect(name)
        parts[name] = addresses_only(name, part) if options.addresses_only else part
        if before is None:
            print(f"{name}: {len(part['addresses'])} records, {len(part['files'])} files")
            continue
        old = before["parts"].get(name, {})
        if options.addresses_only and old:
            old = addresses_only(name, old)
        elif old and "files" not in old:
            parser.error(f"{options.compare} holds addresses only: compare with --addresses-only")
        why = first_difference(old, parts[name])
        differ = differ or why is not None
        alone = options.addresses_only and not PARTS[name].everywhere
        remark = " (its plan; its addresses are the processor's)" if alone else ""
        print(f"{name}{remark}: {'same' if why is None else f'DIFFERS, {why}'}", flush=True)
    if before is None:
        text = json.dumps({"versions": versions(), "parts": parts}, indent=1)
        options.write.write_text(text + "\n", encoding="utf-8")
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
