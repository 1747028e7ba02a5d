"""GSM8K: word problems of grade-school arithmetic, answered with a chain of thought.

Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv 2110.14168; five worked
examples as in Wei et al., arXiv 2201.11903. Template, stops and both extractions are those of
lm-eval 0.4.13 (``gsm8k``). Two scorings of the same texts:

- ``gsm8k`` (strict): the first number after "#### ".
- ``gsm8k-flexible``: the last number.

Beside the outcome stands the likelihood of the data's own worked solution after the same prompt.

The worked examples are the first five rows of ``train``, the same for every item. lm-eval draws
five others for every item; ``gsm8k-sampled`` and ``gsm8k-sampled-flexible`` draw the very same (all
items in order, seed 1234), so that each item has a long prompt of its own. With ``-chat`` (before
``-flexible``) the examples are turns of a chat in the model's template, as with lm-eval's
``--apply_chat_template``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from basinscope.errors import BasinscopeError
from basinscope.tasks.base import Answer, Generate, Item, Outcome
from basinscope.tasks.data import Hub, folder_of, read
from basinscope.tasks.published import Published, nll_of, text_of

NAMES: Final = tuple(
    f"gsm8k{sampled}{chat}{flexible}"
    for sampled in ("", "-sampled")
    for chat in ("", "-chat")
    for flexible in ("", "-flexible")
)

SHOTS: Final = 5
STOP: Final = ("Question:", "</s>", "<|im_end|>")
_MAX_TOKENS: Final = 256
_SEED: Final = 1234  # of lm-eval's worked examples

_STRICT: Final = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE: Final = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def load(name: str, data_dir: str | Path | None = None) -> Published:
    """GSM8K as a task.

    Args:
        name: one of `NAMES`.
        data_dir: folder with ``gsm8k/train.jsonl`` and ``test.jsonl``; see `basinscope.tasks.data`.

    Raises:
        BasinscopeError: If the data are missing or malformed.
    """
    folder = folder_of(data_dir)
    flexibly, sampled, chat = (word in name for word in ("flexible", "sampled", "chat"))
    rows = _rows(folder, "train")
    solved = [(ask, answer) for ask, answer, _ in islice(rows, None if sampled else SHOTS)]
    if len(solved) < SHOTS:
        raise BasinscopeError(
            f"gsm8k/train has {len(solved)} rows", f"at least {SHOTS} rows", "load the data anew"
        )
    draws, shots = random.Random(_SEED), solved[:SHOTS]  # noqa: S311 (that of lm-eval)
    decided = None if flexibly else strict_decided
    prefix = _text(shots)
    items = []
    for i, (ask, solution, gold) in enumerate(_rows(folder, "test")):
        if sampled:
            shots = draws.sample(solved, SHOTS)
        if chat:
            turns = tuple(t for q, a in shots for t in (("user", q), ("assistant", a)))
            request = Generate(
                ask, _MAX_TOKENS, STOP, True, decided, turns=turns, reference=solution
            )
        else:
            # a prefix is what items share: sampled examples are each item's own
            examples, shared = (_text(shots), "") if sampled else ("", prefix)
            request = Generate(
                examples + ask, _MAX_TOKENS, STOP, False, decided, (), shared, f" {solution}"
            )
        items.append(Item(str(i), (request,), gold))
    return Published(
        name,
        tuple(items),
        chance=0.0,
        scoring="gsm8k-flexible/1" if flexibly else "gsm8k-strict/1",
        score=partial(_score, extract=flexible if flexibly else strict),
        data_dir=None if folder is None else str(folder),
    )


def strict(text: str) -> str | None:
    """First number after "#### ", normalised; None if there is none.

    >>> strict("She pays $3 and then $1,200. #### 1,203.")
    '1203'
    """
    match = _STRICT.search(text)
    return None if match is None else normal(match[1])


def flexible(text: str) -> str | None:
    """Last number, normalised; None if there is none.

    A run of two or more of ``$0-9.,`` is taken for a number, so an ellipsis is one too, as in the
    original.

    >>> flexible("She pays $3 and then $1,200.50.")
    '1200.50'
    """
    numbers = _FLEXIBLE.findall(text)
    return normal(numbers[-1]) if numbers else None


def normal(number: str) -> str:
    """Number without commas, dollar signs and one trailing dot; compared as text (12 is not 12.0).

    >>> normal("$1,200.")
    '1200'
    """
    return re.sub(r"\.$", "", number.replace(",", "").replace("$", ""))


def strict_decided(text: str) -> bool:
    """Whether the first number after "#### " has ended: nothing that follows can change it."""
    match = _STRICT.search(text)
    return match is not None and match.end() < len(text)


def _rows(folder: Path | None, split: str) -> Iterator[tuple[str, str, str]]:
    """Question as it is asked, answer, and the number after its "#### "."""
    hub = Hub("openai/gsm8k", "main", split)
    for row in read(folder, f"gsm8k/{split}.jsonl", hub, ("question", "answer")):
        answer = row.text("answer")
        number = strict(answer)
        if number is None:
            raise row.bad("'answer' does not end in '#### ' and a number")
        yield f"Question: {row.text('question')}\nAnswer:", answer, number


def _text(shots: Sequence[tuple[str, str]]) -> str:
    """Worked examples as one text."""
    return "".join(f"{question} {answer}\n\n" for question, answer in shots)


def _score(item: Item, answer: Answer, *, extract: Callable[[str], str | None]) -> Outcome:
    number = extract(text_of(item, answer))
    right = number == item.answer
    return Outcome(right, "none" if number is None else number, nll=nll_of(answer))
