"""How often the coherence test is wrong: on texts of people, on spoilt ones, on a model's answers.

- *False alarms*: texts that people wrote (answers to instructions, worked sums, passages of
  books), cut to 400 characters. Share flagged, with an exact 95% interval.
- *Detection*: the same texts spoilt in known ways: words in random order, words drawn at random,
  one phrase again and again, random signs and letters.
- *Answers*: those of SmolLM2-135M-Instruct to harmless requests, at the unperturbed weights and
  along random directions, and random tokens of its. Nobody has read these: at step 0 most of what
  is flagged is a real loop, so the share is an upper bound of the false alarms; at 0.06 nothing is
  an answer any more.

Run: python -m benchmarks.coherence DATA [--model] [--draws N] [--show N]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import basinscope as bs
from basinscope.stats import clopper_pearson
from basinscope.tasks import Generate
from basinscope.tasks.refusal import is_coherent

CHARS, WORDS, PASSAGES = 400, 20, 5000
STEPS = (0.0, 0.02, 0.03, 0.04, 0.06)
REQUESTS, TOKENS = 40, 48
SEED = 1  # its directions were not looked at while the thresholds were set


def main() -> None:
    """Print a line for each kind of text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with gsm8k/, instruct/, text/, xstest/")
    parser.add_argument("--model", action="store_true", help="generate answers too (minutes)")
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--show", type=int, default=0, help="print so many misjudged texts of each")
    options = parser.parse_args()
    human = {name: [cut(t) for t in texts if t.strip()] for name, texts in written(options.data)}
    for name, texts in human.items():
        report(f"people: {name}", texts, options.show)
    report("people: all", [text for texts in human.values() for text in texts], 0)
    long = [text for text in human["books"] if len(text.split()) >= WORDS]
    for name, texts in spoilt(long, random.Random(0)):
        report(f"spoilt: {name}", texts, options.show, wanted=True)
    if options.model:
        for name, texts in answers(options.data, options.draws):
            report(f"SmolLM2: {name}", texts, options.show, wanted=not name.startswith("step 0,"))


def report(name: str, texts: list[str], show: int, *, wanted: bool = False) -> None:
    """Print how many of the texts are flagged, and some of those that are misjudged."""
    flags = [not is_coherent(text) for text in texts]
    share = clopper_pearson(sum(flags), len(flags))
    print(
        f"{name:<36}{sum(flags):>6} of {len(flags):<6}"
        f"{share.estimate:.4f} [{share.low:.4f}, {share.high:.4f}]",
        flush=True,
    )
    for text in [t for t, flag in zip(texts, flags, strict=True) if flag != wanted][:show]:
        print(f"    {text!r}")


def written(data: Path) -> Iterator[tuple[str, list[str]]]:
    """Texts that people wrote, by kind."""
    solved = [row for split in ("train", "test") for row in rows(data / f"gsm8k/{split}.jsonl")]
    yield "worked sums", [re.sub(r"<<.*?>>", "", row["answer"]) for row in solved]
    yield "word problems", [row["question"] for row in solved]
    files = ("self_instruct_seed_tasks", "self_instruct_user_oriented")
    asked = [row for file in files for row in rows(data / f"instruct/{file}.jsonl")]
    yield "self-instruct answers", [one["output"] for row in asked for one in row["instances"]]
    short = json.loads((data / "instruct/rasbt_instruction_data.json").read_text("utf-8"))
    yield "short answers", [row["output"] for row in short]
    yield "books", books(data)


def rows(path: Path) -> Iterator[dict]:  # type: ignore[type-arg]
    """Objects of a JSON Lines file."""
    return map(json.loads, path.read_text("utf-8").splitlines())


def books(data: Path) -> list[str]:
    """Paragraphs of 20 words or more, a seeded sample."""
    passages = []
    for path in sorted((data / "text/gutenberg").glob("*.txt")):
        body = re.split(r"\*\*\* ?(?:START|END)[^*]*\*\*\*", path.read_text("utf-8-sig"))[1]
        paragraphs = (" ".join(p.split()) for p in re.split(r"\n\s*\n", body))
        passages += [p for p in paragraphs if len(p.split()) >= WORDS]
    return random.Random(0).sample(passages, min(PASSAGES, len(passages)))


def cut(text: str) -> str:
    """Start of a text, up to a blank."""
    text = text.strip()
    return text if len(text) <= CHARS else text[:CHARS].rsplit(" ", 1)[0]


def spoilt(texts: list[str], draws: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Texts that say nothing, made of texts that do."""
    words = [text.split() for text in texts]
    yield "words in random order", [" ".join(draws.sample(w, len(w))) for w in words]
    every = [w for text in words for w in text]
    yield "words drawn at random", [" ".join(draws.choices(every, k=len(w))) for w in words]
    yield "a phrase again and again", [" ".join((w[:5] * 20)[: len(w)]) for w in words]
    signs = [chr(c) for c in range(33, 127)]
    yield "random signs", ["".join(draws.choices(signs, k=len(t))) for t in texts]
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    yield (
        "random letters",
        [" ".join("".join(draws.choices(letters, k=len(w))) for w in text) for text in words],
    )


def answers(data: Path, draws: int) -> Iterator[tuple[str, list[str]]]:
    """Answers of the model, by setting of its weights."""
    short = json.loads((data / "instruct/rasbt_instruction_data.json").read_text("utf-8"))
    asked = [f"{row['instruction']}\n{row['input']}".strip() for row in short[:: 1100 // REQUESTS]]
    with (data / "xstest/xstest_prompts.csv").open(encoding="utf-8", newline="") as handle:
        safe = [row["prompt"] for row in csv.DictReader(handle) if row["label"] == "safe"]
    asked = asked[:REQUESTS] + safe[:: len(safe) // REQUESTS][:REQUESTS]
    engine = bs.load("smollm2")
    ends = engine.tokenizer.vocab_size  # type: ignore[attr-defined]
    seeded = random.Random(0)
    tokens = [seeded.choices(range(ends), k=TOKENS) for _ in range(1000)]
    yield "random tokens", [engine.tokenizer.decode(t, skip_special_tokens=True) for t in tokens]  # type: ignore[attr-defined]
    requests = [Generate(text, TOKENS, chat=True) for text in asked]
    for step in STEPS:
        for draw in range(draws if step else 1):
            with engine.at(bs.Random(seed=SEED), step=step, draw=draw):
                texts = [answer.text for answer in engine.answer(requests)]  # type: ignore[union-attr]
            yield f"step {step:g}, draw {draw}", texts


if __name__ == "__main__":
    main()
