"""A toy world, a command line of every kind in it, and what a line leaves behind."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import fixed_run
import yaml

MODEL_SEED = 1  # of 60, one that has four of the first six items of `basic`, where chance is 1.5
CHATS = [{"instruction": f"add {i}", "output": f"{i + 1}!"} for i in range(12)]
RECIPE = fixed_run.RECIPE | {
    "tokens": 24 * 8 * 16, "checkpoint_every": 4,
    "measure": {"windows": 4, "validation": 8, "draws": 3, "over_training": [0.5],
                "over_draws": 1},
}  # fmt: skip
SECONDS = {*fixed_run.DROPPED, "seconds"}
"""Keys whose values need not be the same in two runs."""


class Line(NamedTuple):
    """A command line, run in a folder beside the toy world.

    Attributes:
        words: of the line.
        after: name of a line whose finished folder it starts from.
        text: whether standard output is text, not JSON.
    """

    words: str
    after: str = ""
    text: bool = False


_TWELVE = "../model -t basic --limit 6 --dtype float32 --json --run run"
LINES = {
    "landscape": Line(f"landscape {_TWELVE} --draws 2 --steps=-0.2:0.2:5 --workers 1"),
    "search": Line(f"landscape {_TWELVE} --draws 2 --outcomes 24 --workers 1"),
    "crossed": Line(f"landscape {_TWELVE} --precision 0.4 --steps=-0.2,0.2 --workers 1"),
    "surface": Line(f"surface {_TWELVE} --xs=-0.1:0.1:3 --ys=-0.1:0.1:3 --workers 1"),
    "certify": Line(
        f"certify {_TWELVE} --sigma 0.02 --draws 16 --items-per-draw 4 --confidence 0.9 --workers 1"
    ),
    "certify a claim": Line(
        f"certify {_TWELVE} --sigma 0.02 --draws 12 --claim 0.5 --antithetic --confidence 0.9"
        " --workers 1"
    ),
    "strict-basin": Line(
        f"strict-basin {_TWELVE} --sigmas 0.001,0.002,0.3 --share 0.7 --confidence 0.9 --workers 1"
    ),
    "certify-tokens": Line(f"certify-tokens {_TWELVE} --draws 16 --sigma 0.05"),
    "attack": Line(f"attack {_TWELVE} --steps 18 --starts 6 --measure math"),
    "finetune": Line(
        "finetune ../model --data ../chats.json --steps 12 --batch 2 --lr 1e-3 --set save_every=2"
        " --dtype float32 --json --run run"
    ),
    "finetune, lora": Line(
        "finetune ../model --data ../chats.json --method lora --steps 8 --batch 2"
        " --set save_every=2 --dtype float32 --json --run run"
    ),
    "widen": Line("widen ../recipe.yaml --device cpu --json --run run"),
    "report": Line("report run", after="landscape", text=True),
    "verdict": Line("verdict run quantised:8 --draws 3 --json", after="certify"),
    "report of widen": Line("report run", after="widen", text=True),
    "landscape, two workers": Line(
        "landscape ../model -t basic,math --limit 3 --draws 2 --steps=-0.2:0.2:5 --workers 2"
        " --dtype float32 --json --run run"
    ),
}  # fmt: skip

FEWER = {
    "landscape": ("--steps=-0.2:0.2:5", "--steps=0.2"),
    "search": ("--outcomes 24", "--outcomes 6"),
    "crossed": ("--steps=-0.2,0.2", "--steps=0.2"),
    "surface": ("--ys=-0.1:0.1:3", "--ys=0"),
    "certify": ("--draws 16", "--draws 6"),
    "certify a claim": ("--draws 12", "--draws 6"),
    "strict-basin": ("0.001,0.002,0.3", "0.001"),
    "certify-tokens": ("--draws 16", "--draws 12"),
    "attack": ("--steps 18 --starts 6 --measure math", "--steps 6 --starts 2"),
    "finetune": ("--steps 12", "--steps 4"),
    "finetune, lora": ("--steps 8", "--steps 4"),
}
"""What is written otherwise in a line whose every write is to fail in turn, and by what."""

SMALL = {
    name: line._replace(words=line.words.replace(*FEWER[name])) if name in FEWER else line
    for name, line in LINES.items()
    if "two workers" not in name  # whose parent writes, as that of one does
}
"""The lines with few writes."""


def build(world: Path) -> None:
    """Write what the lines name into a folder."""
    with mock.patch.object(fixed_run, "MODEL_SEED", MODEL_SEED):
        fixed_run.write_model(world / "model")
    (world / "chats.json").write_text(json.dumps(CHATS))
    for name, stories in (("old.txt", 60), ("new.txt", 30)):
        fixed_run.write_text(world / name, stories)
    (world / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))


class Left(NamedTuple):
    """What a line has left in its folder.

    Attributes:
        files: hash of every file, drafts and what was set aside apart.
        printed: standard output.
        drafts: how many were left by who was killed.
        aside: records that were set aside.
    """

    files: dict[str, str]
    printed: Any
    drafts: int
    aside: list[str]

    def differs(self, other: Left) -> list[str]:
        """What is not as another run of the same line has left it."""
        names = sorted(self.files.keys() | other.files.keys())
        wrong = [name for name in names if self.files.get(name) != other.files.get(name)]
        wrong += ["standard output"] if self.printed != other.printed else []
        return wrong + [f"set aside: {name}" for name in self.aside]


def left(line: Line, folder: Path) -> Left:
    """Look at what a finished line has left."""
    files, drafts, aside = {}, 0, []
    for path in sorted((folder / "run").rglob("*")):
        name = str(path.relative_to(folder / "run"))
        if path.is_dir():
            continue
        if ".draft-" in name:
            drafts += 1
        elif re.fullmatch(r"\.bad\d*", path.suffix):
            aside.append(name)
        else:
            files[name] = digest(path)
    printed = (folder / "out").read_text()
    return Left(files, printed if line.text else _lasting(json.loads(printed)), drafts, aside)


def begin(line: Line, folder: Path, finished: dict[str, Path]) -> None:
    """Make the folder that a line is run in."""
    folder.mkdir()
    if line.after:
        shutil.copytree(finished[line.after] / "run", folder / "run")


def digest(path: Path) -> str:
    """Hash of a file, without what is of one run alone."""
    if path.name == "numbers.csv":  # of `compare`: seconds among them
        rows = path.read_text().splitlines()
        return hashlib.sha256("\n".join(r for r in rows if "_s," not in r).encode()).hexdigest()
    if path.suffix == ".html":  # plotly names its parts at random
        text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "", path.read_text())
        return hashlib.sha256(text.encode()).hexdigest()
    return fixed_run.digest(path)


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(one) for key, one in value.items() if key not in SECONDS}
    return [_lasting(one) for one in value] if isinstance(value, list) else value
