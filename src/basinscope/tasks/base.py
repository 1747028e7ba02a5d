"""The seam between benchmarks and engines: what a task asks, and how an answer becomes 0 or 1.

A task knows its items, the requests each item makes, and the oracle that turns the answers to them
into an outcome. It knows nothing of engines, tokenizers or weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Final, Literal, Protocol, runtime_checkable

from basinscope.errors import BasinscopeError

Turns = tuple[tuple[str, str], ...]
"""What was said in a chat: role ("system", "user" or "assistant") and text of each message.

A last one of the role `OPENING` is what the model's message behind the prompt begins with.
"""

OPENING: Final = "opening"
LIKE_LM_EVAL: Final = "like lm-eval"

Chat = bool | Literal["if any", "like lm-eval"]
"""Whether the model's own chat template stands around a prompt.

True: it must, and a model without one is the user's error. "if any": a model without one gets the
plain text. "like lm-eval": as True, read as lm-eval's models read it: blanks that end the chat are
scored with a continuation, and the tokenizer puts its special tokens before a chat that does not
begin with the start token.
"""


@dataclass(frozen=True)
class Choices:
    """Rank ``continuations`` by their log-likelihood after ``prefix + context``.

    ``prefix`` is what the items of a task have in common (few-shot examples): an engine may run it
    once for each set of weights. With ``chat``, prefix and context are the user's message after
    ``turns``, and the continuations begin the model's.
    """

    context: str
    continuations: tuple[str, ...]
    prefix: str = ""
    chat: Chat = False
    turns: Turns = ()

    def __post_init__(self) -> None:
        """Refuse what has no likelihood."""
        check_turns(self.chat, self.turns)
        if not self.continuations or not all(self.continuations):
            raise BasinscopeError(
                f"continuations {self.continuations!r}",
                "at least one, none empty",
                "a text for each",
            )


@dataclass(frozen=True)
class Generate:
    """Continue ``prompt`` greedily for at most ``max_tokens`` tokens.

    With ``chat``, the prompt is the user's message after ``turns``. Generation ends at the model's
    end-of-sequence token, at any ``stop`` string (cut off), or as soon as ``decided(text)`` is
    true: only if the score can then no longer change. The prompt is ``prefix + prompt``; the prefix
    is as in `Choices`. A ``reference`` is an answer whose likelihood after the same prompt is
    wanted besides.
    """

    prompt: str
    max_tokens: int
    stop: tuple[str, ...] = ()
    chat: Chat = False
    decided: Callable[[str], bool] | None = field(default=None, compare=False)
    turns: Turns = ()
    prefix: str = ""
    reference: str = ""

    def __post_init__(self) -> None:
        """Refuse a stop that every text contains."""
        check_turns(self.chat, self.turns)
        if not all(self.stop) or isinstance(self.stop, str):
            raise BasinscopeError(f"stop={self.stop!r}", "a tuple of non-empty strings", "('.',)")
        if self.max_tokens < 0:
            raise BasinscopeError(f"max_tokens={self.max_tokens}", "0 or more", "64")


@dataclass(frozen=True)
class Corpus:
    """Likelihood of every token of ``text`` but the first.

    The text is read in windows of ``window`` tokens (fewer where the model's context is shorter),
    each of which begins half a window after the one before it. The first window scores all its
    tokens but the first; each further one scores its second half. So every token is scored once,
    and after the first window with at least half a window before it. No start token is added to
    those of the tokenizer.
    """

    text: str
    window: int = 1024

    def __post_init__(self) -> None:
        """Refuse what has no likelihood."""
        if not self.text or self.window < 2:
            raise BasinscopeError(
                f"a corpus of {len(self.text)} characters in windows of {self.window}",
                "a text that is not empty, windows of at least 2 tokens",
                "a longer text, window=512",
            )


Request = Choices | Generate | Corpus


@dataclass(frozen=True)
class Ranking:
    """Answer to `Choices`: the total log-likelihood in nats of each continuation.

    ``greedy`` says of each continuation whether greedy decoding would write it: all its tokens are
    hit (`Likelihood`); empty where the engine does not say. ``failure`` is non-empty where there is
    no answer (non-finite logits, a prompt that does not fit the model's context) and says why; the
    item then counts as wrong without asking the oracle.
    """

    loglik: tuple[float, ...]
    failure: str = ""
    greedy: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Generation:
    """Answer to `Generate`; ``finished`` is false where the cap ended it.

    ``failure`` as in `Ranking`. ``nll`` is the total negative log-likelihood of the reference in
    nats; None where there is no reference, where it does not fit the context, or where its logits
    are not finite.
    """

    text: str
    finished: bool
    failure: str = ""
    nll: float | None = None


@dataclass(frozen=True)
class Likelihood:
    """Answer to `Corpus`, for each scored token in the order of the text.

    ``logliks`` are in nats. A token is hit where greedy decoding would have written it: it has the
    highest logit, and the lowest index of equal ones. Its margin is its logit minus the highest
    other one. ``failure`` as in `Ranking`.
    """

    logliks: tuple[float, ...]
    hits: tuple[bool, ...]
    margins: tuple[float, ...]
    failure: str = ""

    @property
    def n_tokens(self) -> int:
        """Number of scored tokens."""
        return len(self.logliks)

    @property
    def nll(self) -> float:
        """Total negative log-likelihood in nats; its mean's exponential is the perplexity."""
        return -math.fsum(self.logliks)


Answer = Ranking | Generation | Likelihood


@dataclass(frozen=True)
class Outcome:
    """The score of one item: ``correct`` is the 0-1 oracle, the rest describes it.

    ``margin`` is in nats, positive where correct (None: not defined); ``nll`` is the negative
    log-likelihood in nats of the reference answer (None: not defined), a sum over ``tokens`` tokens
    (None: the answer as a whole is the unit). ``failed`` says that there was no answer to score,
    and the label why.
    """

    correct: bool
    label: str = ""
    margin: float | None = None
    nll: float | None = None
    tokens: int | None = None
    failed: bool = False


@dataclass(frozen=True)
class Item:
    """One question: its identity, the requests it makes and the reference answer."""

    id: str
    requests: tuple[Request, ...]
    answer: int | str | None = None


@runtime_checkable
class Task(Protocol):
    """A benchmark whose score is the mean of a 0-1 oracle over its items."""

    @property
    def name(self) -> str:
        """Word that names it on the command line and labels it in every table."""
        ...

    @property
    def chance(self) -> float:
        """Score of an answer without knowledge, in [0, 1)."""
        ...

    @property
    def scoring(self) -> str:
        """Version of the oracle; stands in the address of every record."""
        ...

    @property
    def items(self) -> Sequence[Item]:
        """The items, in a fixed order."""
        ...

    def oracle(self, item: Item, answers: Sequence[Answer]) -> Outcome:
        """Score the answers to ``item.requests`` (same order)."""
        ...


@dataclass(frozen=True)
class CallableTask:
    """A task scored by a function of the live module: no tokenizer, no text.

    Args:
        name: label in tables.
        fn: ``fn(module)`` under the live weights; returns ``n_items`` values 0 or 1 (sequence,
            array or tensor). Anything else, NaN included, counts as wrong.
        n_items: number of items.
        chance: score without knowledge.
        version: change it when ``fn`` changes: it stands in the address of every record, because
            code itself cannot be hashed reliably.
    """

    name: str
    fn: Callable[[Any], Any]
    n_items: int
    chance: float = 0.0
    version: str = "1"

    def __post_init__(self) -> None:
        """Refuse what cannot be scored."""
        if not isinstance(self.n_items, Integral) or self.n_items < 1:
            raise BasinscopeError(
                f"n_items={self.n_items} for task {self.name!r}",
                "at least 1: the number of 0-1 values that fn returns",
                "n_items=100",
            )
        check_chance(self.name, self.chance)

    @property
    def scoring(self) -> str:
        """Version of the oracle."""
        return f"callable/{self.version}"

    @property
    def items(self) -> tuple[Item, ...]:
        """Items without requests: the function answers all of them at once."""
        return tuple(Item(str(i), ()) for i in range(self.n_items))

    def oracle(self, item: Item, answers: Sequence[Answer]) -> Outcome:
        """Not used: `outcomes` scores all items at once."""
        raise TypeError("a CallableTask scores its items with outcomes(module)")

    def outcomes(self, module: Any) -> list[Outcome]:
        """Call ``fn`` on the live module; values other than 0 and 1 count as wrong."""
        values = self.fn(module)
        values = values.tolist() if hasattr(values, "tolist") else values
        values = list(values) if isinstance(values, Sequence) else [values]
        if len(values) != self.n_items:
            raise BasinscopeError(
                f"task {self.name!r}: fn returned {len(values)} values",
                f"{self.n_items}, as n_items promises",
                "return one 0 or 1 for each item",
            )
        return [
            Outcome(bool(v == 1), "1" if v == 1 else "0")
            if v in (0, 1)
            else Outcome(False, "invalid", failed=True)
            for v in values
        ]


def check_turns(chat: Chat, turns: Turns) -> None:
    """Raise if there are turns without a chat, or one that plain text could not show."""
    if turns and chat not in (True, LIKE_LM_EVAL):
        raise BasinscopeError(
            f"{len(turns)} turns with chat={chat!r}", "turns in chats", "chat=True"
        )


def without_references(item: Item) -> Item:
    """Return the item without the references of its texts: their likelihoods are not asked for."""
    requests = tuple(
        dataclasses.replace(r, reference="") if isinstance(r, Generate) else r
        for r in item.requests
    )
    return dataclasses.replace(item, requests=requests)


def check_chance(name: str, chance: float) -> None:
    """Raise unless the chance level of a task is a score."""
    if not 0.0 <= chance < 1.0:
        raise BasinscopeError(f"chance={chance} for task {name!r}", "0 <= chance < 1", "0")


def items_hash(task: Task) -> str:
    """Sha256 over everything the task asks: its name, scoring, and the text of every item.

    It is the hash of the canonical JSON of all that; the text is never held as a whole.
    """
    head = json.dumps([task.name, task.scoring, task.chance])
    digest = hashlib.sha256((head[:-1] + ", [").encode())
    for i, item in enumerate(task.items):
        text = json.dumps(dataclasses.asdict(_plain(item)), sort_keys=True)
        digest.update(((", " if i else "") + text).encode())
    digest.update(b"]]")
    return digest.hexdigest()


def _plain(item: Item) -> Item:
    """Return the item without its callables, which have no text to hash."""
    requests = tuple(
        dataclasses.replace(r, decided=None) if isinstance(r, Generate) else r
        for r in item.requests
    )
    return dataclasses.replace(item, requests=requests)


def limited(task: Task, limit: int | None, seed: int = 0) -> Task:
    """Take ``limit`` items of a task, the same ones for every weight setting.

    Where item ids have the form ``stratum/rest``, each stratum gives its share: ``limit`` times
    its part of the items, rounded by largest remainder. Within a stratum (all items, where there
    are none) the sample is drawn by hashing (seed, item id): no generator is touched, and it
    changes little when items are added. The items keep their order.
    """
    if limit is None or limit >= len(task.items):
        return task
    if limit < 1:
        raise BasinscopeError(f"limit={limit}", "at least 1 item, or no limit", "leave limit out")
    if isinstance(task, CallableTask):
        return task
    strata: dict[str, list[str]] = {}
    for item in task.items:
        stratum, slash, _ = item.id.partition("/")
        strata.setdefault(stratum if slash else "", []).append(item.id)
    shares = _shares({name: len(ids) for name, ids in strata.items()}, limit, seed)
    chosen: set[str] = set()
    for name, ids in strata.items():
        chosen.update(sorted(ids, key=lambda item: _hash(seed, item))[: shares[name]])
    return Subset(task, tuple(item for item in task.items if item.id in chosen), seed)


def _shares(sizes: dict[str, int], limit: int, seed: int) -> dict[str, int]:
    """Parts of ``limit`` in proportion to the sizes, whole by largest remainder.

    Equal remainders are ordered by hash, so that no stratum is favoured for its name.
    """
    total = sum(sizes.values())
    shares = {name: limit * size // total for name, size in sizes.items()}
    left = limit - sum(shares.values())
    by_rest = sorted(sizes, key=lambda name: (-(limit * sizes[name] % total), _hash(seed, name)))
    return {name: share + (name in by_rest[:left]) for name, share in shares.items()}


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


@dataclass(frozen=True)
class Subset:
    """Some of the items of a task, under the same name; ``seed`` drew them."""

    whole: Task
    items: tuple[Item, ...]
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the whole task."""
        return self.whole.name

    @property
    def chance(self) -> float:
        """Chance level of the whole task."""
        return self.whole.chance

    @property
    def scoring(self) -> str:
        """Scoring of the whole task."""
        return self.whole.scoring

    def oracle(self, item: Item, answers: Sequence[Answer]) -> Outcome:
        """Oracle of the whole task."""
        return self.whole.oracle(item, answers)
