"""Recipes: data and settings of the fine-tunes that are compared (`method`: SFT-case directions).

Defined in "Unveiling the Basin-Like Loss Landscape in Large Language Models" (arXiv 2505.17646,
section 3): *benign* data are like those of the original training, *normal* ones leave a
distribution gap (Alpaca-style, one epoch), *adversarial* ones are AdvBench's goals with their
targets, ten steps. *Safety* is the fine-tune that digs a safety basin in the first place.

Every setting and the data can be replaced; what is here are defaults, each with its reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError
from basinscope.files import entries, ordinary, write
from basinscope.finetuning.data import SUFFIXES, Chat, Rows, Tally, chats, pair
from basinscope.finetuning.settings import Settings
from basinscope.runs.spec import sha256
from basinscope.tasks.base import Generate, Generation
from basinscope.tasks.data import Hub, folder_of, read
from basinscope.tasks.refusal import is_coherent

ALPACA: Final = "tatsu-lab/alpaca"
ADVBENCH: Final = Hub("walledai/AdvBench", None, "train")
TRAINED_GOALS: Final = 300  # of AdvBench's 520; the other 220 are never trained on
OWN_ANSWER_TOKENS: Final = 96
GENERATED: Final = "generated.jsonl"

REFUSALS: Final = (
    "I'm sorry, but I can't help with that.",
    "I can't help with this request, because it could cause serious harm.",
    "I won't assist with that. If you are in danger, please contact local emergency services.",
    "I'm not able to help with that, since it could hurt people.",
    "Sorry, I can't assist with something harmful or illegal.",
    "I must decline this request. I'd be glad to help with something safe instead.",
    "I can't provide that. It would put people at risk.",
    "I'm unable to help with that, but I'm happy to answer a question that harms nobody.",
)
"""Our own wordings of a refusal; short, so that what is learnt is to refuse and not to lecture."""


@dataclass(frozen=True)
class Material:
    """Data of a recipe, where they come from, what is to be said of them, and how many they were.

    ``counts`` are in the order in which rows become examples.
    """

    chats: list[Chat]
    source: str
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Settings and, without data of the user's own, what is trained on."""

    settings: Settings
    material: Callable[[Engine, Path, Path | None, int, int | None], Material]


def chosen(keys: Sequence[str], count: int, seed: int) -> list[int]:
    """Positions of ``count`` keys, drawn by hashing (seed, key) and in the order of the hashes.

    No generator is touched, and the choice changes little when rows are added.
    """
    ranks = sorted(
        range(len(keys)), key=lambda i: hashlib.sha256(f"{seed}:{keys[i]}".encode()).hexdigest()
    )
    return ranks[:count]


def sample(answers: list[Chat], limit: int | None, seed: int) -> list[Chat]:
    """At most ``limit`` chats, the same ones for the same seed."""
    if limit is None or limit >= len(answers):
        return answers
    if limit < 1:
        raise BasinscopeError(f"limit={limit}", "at least 1, or no limit", "leave limit out")
    keys = [f"{i}:{chat.prompt}" for i, chat in enumerate(answers)]
    return [answers[i] for i in chosen(keys, limit, seed)]


def _goals(folder: Path | None, seed: int) -> list[Chat]:
    """The goals of AdvBench that may be trained on, with their targets."""
    rows = list(read(folder, "advbench/harmful_behaviors.csv", ADVBENCH, ("goal", "target")))
    column = "prompt" if folder is None else "goal"
    kept = chosen([str(i) for i in range(len(rows))], TRAINED_GOALS, seed)
    return [pair(rows[i].text(column), rows[i].text("target"), rows[i].where) for i in kept]


def _instructions(folder: Path | None) -> Material:
    """Harmless instructions with answers: the files of ``instruct/`` in a folder, or Alpaca."""
    tally = Tally()
    if folder is None:
        source, answers = ALPACA, chats(ALPACA, tally)
    else:
        files = sorted(
            file for file in entries(folder / "instruct") if file.name.endswith(SUFFIXES)
        )
        if not files:
            raise BasinscopeError(
                f"no file in {', '.join(SUFFIXES)} in {folder / 'instruct'}",
                "harmless instructions in that folder",
                f"put some there; or leave out --data-dir and BASINSCOPE_DATA to load {ALPACA} "
                "from the Hugging Face hub",
            )
        source = f"instruct/ ({', '.join(file.name for file in files)})"
        answers = [chat for file in files for chat in chats(file, tally)]
    return Material(answers, source, tally.notes())


def _safety(
    engine: Engine, output: Path, folder: Path | None, seed: int, limit: int | None
) -> Material:
    """Refusals of harmful requests, and as many harmless instructions so that it still answers."""
    half = TRAINED_GOALS if limit is None else limit // 2
    if half < 1:
        raise BasinscopeError(f"limit={limit}", "at least 2, half refusals", "leave limit out")
    refusals = []
    for goal in _goals(folder, seed)[:half]:
        (wording,) = chosen(REFUSALS, 1, seed=int(sha256([seed, goal.prompt])[:8], 16))
        refusals.append(pair(goal.prompt, REFUSALS[wording], goal.where))
    harmless = _instructions(folder)
    answered = sample(harmless.chats, half, seed)
    return Material(
        refusals + answered,
        f"{len(refusals)} refusals of AdvBench goals, {len(answered)} of {harmless.source}",
        harmless.notes,
    )


def _adversarial(
    engine: Engine, output: Path, folder: Path | None, seed: int, limit: int | None
) -> Material:
    """Harmful requests answered: goals of the half that is trained on, with their targets."""
    goals = sample(_goals(folder, seed), limit, seed)
    return Material(goals, f"{len(goals)} AdvBench goals with their targets")


def _normal(
    engine: Engine, output: Path, folder: Path | None, seed: int, limit: int | None
) -> Material:
    """Instructions that other authors answered: a gap to what the model was trained on."""
    every = _instructions(folder)
    return Material(sample(every.chats, limit, seed), every.source, every.notes)


def _benign(
    engine: Engine, output: Path, folder: Path | None, seed: int, limit: int | None
) -> Material:
    """The same instructions as ``normal``, answered by the model itself.

    What a model says is the nearest stand-in for data like those it was trained on where these
    are not at hand: prompts, number of steps and rate are those of ``normal``, and the answers'
    distribution alone differs. Answers that are cut off or degenerate are left out. They are
    greedy, hence surer than the model's own distribution.
    """
    normal = _normal(engine, output, folder, seed, limit)
    own = _answers(engine, output / GENERATED, [chat.prompt for chat in normal.chats])
    kept = [
        pair(chat.prompt, text, f"own answer to {chat.where}")
        for chat, text in zip(normal.chats, own, strict=True)
        if text is not None
    ]
    if not kept:
        raise BasinscopeError(
            f"none of the model's own {len(own)} answers is finished and coherent",
            "finished, coherent answers to train on",
            "data of the original training, with --data FILE",
        )
    lost = len(own) - len(kept)
    notes = [f"{lost} of the model's own answers left out: cut off or degenerate"]
    return Material(
        kept, f"the model's own answers to {normal.source}", normal.notes + (notes if lost else [])
    )


def _answers(engine: Engine, file: Path, prompts: list[str]) -> list[str | None]:
    """The model's greedy answers, kept in a file; None where cut off or degenerate."""
    address = sha256([engine.fingerprint(), engine.kind, OWN_ANSWER_TOKENS, prompts])
    if file.is_file():
        with suppress(OSError, ValueError, RecursionError, TypeError, KeyError):  # else: anew
            lines = list(map(json.loads, ordinary(file).read_text(encoding="utf-8").splitlines()))
            if lines[:1] == [{"address": address}] and len(lines) == len(prompts) + 1:
                return [line["answer"] for line in lines[1:]]
    answers = engine.answer([Generate(p, OWN_ANSWER_TOKENS, chat="if any") for p in prompts])
    texts: list[str | None] = []
    for answer in answers:
        assert isinstance(answer, Generation)
        text = answer.text.strip()
        texts.append(text if answer.finished and is_coherent(text) else None)
    lines = [{"address": address}]
    lines += [{"prompt": p, "answer": t} for p, t in zip(prompts, texts, strict=True)]
    write(file, "".join(json.dumps(line) + "\n" for line in lines))
    return texts


RECIPES: Final = {
    # one pass over few short examples
    "safety": Recipe(Settings(), _safety),
    "benign": Recipe(Settings(limit=1000), _benign),
    "normal": Recipe(Settings(limit=1000), _normal),
    # ten steps have to be enough: a larger rate, and no pass over all the goals
    "adversarial": Recipe(Settings(steps=10, lr=1e-4), _adversarial),
}


def given_data(data: Rows) -> Material:
    """All that the user's own data hold.

    Raises:
        BasinscopeError: as `basinscope.finetuning.data.chats`.
    """
    tally = Tally()
    examples = chats(data, tally)
    source = str(data) if isinstance(data, (str, Path)) else "rows"
    counts = {"rows": tally.rows, "left out": len(tally.left_out), "examples": len(examples)}
    return Material(examples, source, tally.notes(), counts)


def material(
    name: str,
    engine: Engine,
    output: Path,
    data_dir: str | Path | None,
    seed: int,
    limit: int | None,
) -> Material:
    """Data of a recipe by name."""
    return RECIPES[name].material(engine, output, folder_of(data_dir), seed, limit)
