"""MMLU: 57 subjects of four-way multiple choice, after five worked examples of the subject.

Hendrycks et al., "Measuring Massive Multitask Language Understanding", arXiv 2009.03300. Prompts
are those of lm-eval 0.4.13 (``mmlu`` and ``mmlu_generative``, ``--num_fewshot 5``), byte for byte:
header, the first five rows of ``dev`` with their answers, the question.

- ``mmlu`` ranks the continuations " A" to " D" by log-likelihood. Of equal ones the first wins, as
  there: 16-bit logits tie often, and a tie is no more wrong than right.
- ``mmlu-gen`` reads the first line of a greedy text; it must be the letter, give or take
  punctuation and case. Its ``nll`` is that of the right letter.

With ``-chat`` the header is the system's message and the examples are turns of a chat in the
model's template, as with lm-eval's ``--apply_chat_template``; the continuations are then "A" to
"D".

The score weighs every question alike; `Landscape.strata` gives those of the subjects and their
mean.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from basinscope.errors import BasinscopeError
from basinscope.tasks.base import Answer, Generate, Item, Outcome, Turns
from basinscope.tasks.choice import choice_item, score_choice
from basinscope.tasks.data import Hub, Row, folder_of, read
from basinscope.tasks.published import Published, loglik_of, nll_of, text_of

SUBJECTS: Final = tuple(
    """
    abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology
    college_chemistry college_computer_science college_mathematics college_medicine college_physics
    computer_security conceptual_physics econometrics electrical_engineering elementary_mathematics
    formal_logic global_facts high_school_biology high_school_chemistry
    high_school_computer_science high_school_european_history high_school_geography
    high_school_government_and_politics high_school_macroeconomics high_school_mathematics
    high_school_microeconomics high_school_physics high_school_psychology high_school_statistics
    high_school_us_history high_school_world_history human_aging human_sexuality
    international_law jurisprudence logical_fallacies machine_learning management marketing
    medical_genetics miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory
    professional_accounting professional_law professional_medicine professional_psychology
    public_relations security_studies sociology us_foreign_policy virology world_religions
    """.split()
)
NAMES: Final = tuple(
    f"{kind}{which}"
    for kind in ("mmlu", "mmlu-gen", "mmlu-chat", "mmlu-gen-chat")
    for which in ("", *(f":{subject}" for subject in SUBJECTS))
)

SHOTS: Final = 5
LETTERS: Final = "ABCD"
_COLUMNS: Final = ("question", *LETTERS, "answer")
_NO_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_MAX_TOKENS: Final = 16  # all but white space and punctuation decides within two letters


def load(name: str, data_dir: str | Path | None = None) -> Published:
    """MMLU as a task; its item ids are ``subject/row``.

    Args:
        name: ``mmlu``, ``mmlu-gen``, ``mmlu-chat`` or ``mmlu-gen-chat`` for all subjects, or with
            ``:SUBJECT`` for one.
        data_dir: folder with ``mmlu/dev`` and ``mmlu/test``; see `basinscope.tasks.data`.

    Raises:
        BasinscopeError: If the data are missing or malformed.
    """
    kind, _, subject = name.partition(":")
    subjects, folder = (subject,) if subject else SUBJECTS, folder_of(data_dir)
    make, score, scoring = _KINDS[kind.removesuffix("-chat")]
    shown, counts = _examples(folder, subjects), Counter[str]()
    in_front = _turns if kind.endswith("-chat") else _prefix
    shared = {one: in_front(one, examples) for one, examples in shown.items()}
    items = []
    for one, row in _rows(folder, "test", subjects):
        items.append(make(f"{one}/{counts[one]}", *_question(row), shared[one]))
        counts[one] += 1
    where = None if folder is None else str(folder)
    return Published(name, tuple(items), 1 / len(LETTERS), scoring, score, where)


def _rows(folder: Path | None, split: str, subjects: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Rows of a split with their subjects."""
    hub = Hub("cais/mmlu", subjects[0] if len(subjects) == 1 else "all", split)
    if folder is None:
        for row in read(None, f"mmlu/{split}/SUBJECT_{split}.csv", hub, _COLUMNS):
            subject = row.text("subject")
            if subject not in subjects:
                raise row.bad(f"unknown subject {subject!r}")
            yield subject, row
    else:
        for subject in subjects:
            file = f"mmlu/{split}/{subject}_{split}.csv"
            for row in read(folder, file, hub, _COLUMNS, header=False):
                yield subject, row


def _question(row: Row) -> tuple[str, int]:
    """Text of a question up to the answer, and the index of the right choice."""
    choices, answer = row.cells.get("choices"), row.cells.get("answer")
    if choices is None:
        choices = [row.text(letter) for letter in LETTERS]
        letter = row.text("answer").strip()
        answer = LETTERS.index(letter) if letter in tuple(LETTERS) else None
    if not isinstance(choices, list) or len(choices) != len(LETTERS):
        raise row.bad(f"{choices!r} are not {len(LETTERS)} choices")
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise row.bad(f"a choice of {choices!r} is no text, or empty")
    if not isinstance(answer, int) or not 0 <= answer < len(LETTERS):
        raise row.bad(f"answer {row.cells.get('answer')!r} is none of {', '.join(LETTERS)}")
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    return "\n".join([row.text("question").strip(), *lines, "Answer:"]), answer


def _examples(folder: Path | None, subjects: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Question and letter of each subject's worked examples."""
    shots: dict[str, list[tuple[str, str]]] = {subject: [] for subject in subjects}
    for subject, row in _rows(folder, "dev", subjects):
        if len(shots[subject]) < SHOTS:
            text, answer = _question(row)
            shots[subject].append((text, LETTERS[answer]))
    for subject, texts in shots.items():
        if len(texts) < SHOTS:
            raise BasinscopeError(
                f"mmlu/dev has {len(texts)} rows of {subject!r}",
                f"at least {SHOTS}, the worked examples",
                "load the data anew",
            )
    return shots


def _header(subject: str) -> str:
    about = subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {about}.\n\n"


def _prefix(subject: str, examples: Sequence[tuple[str, str]]) -> str:
    """Header and worked examples as one text."""
    return _header(subject) + "".join(f"{text} {letter}\n\n" for text, letter in examples)


def _turns(subject: str, examples: Sequence[tuple[str, str]]) -> Turns:
    """Header and worked examples as a chat."""
    said = (t for text, letter in examples for t in (("user", text), ("assistant", letter)))
    return (("system", _header(subject)), *said)


def _ranked(item_id: str, text: str, answer: int, shared: str | Turns) -> Item:
    if isinstance(shared, str):
        return choice_item(item_id, text, [f" {x}" for x in LETTERS], answer, prefix=shared)
    return choice_item(item_id, text, LETTERS, answer, chat=True, turns=shared)


def _generated(item_id: str, text: str, answer: int, shared: str | Turns) -> Item:
    stop, decided, right = ("</s>", "\n"), letter_decided, LETTERS[answer]
    if isinstance(shared, str):
        request = Generate(
            text, _MAX_TOKENS, stop, False, decided, prefix=shared, reference=f" {right}"
        )
    else:
        request = Generate(text, _MAX_TOKENS, stop, True, decided, turns=shared, reference=right)
    return Item(item_id, (request,), answer)


def _score_ranked(item: Item, answer: Answer) -> Outcome:
    loglik = loglik_of(item, answer)
    assert isinstance(item.answer, int)
    outcome = score_choice(loglik, item.answer)
    if outcome.label == "nan":
        return outcome
    first = loglik.index(max(loglik))
    return replace(outcome, correct=first == item.answer, label=LETTERS[first])


def _score_generated(item: Item, answer: Answer) -> Outcome:
    assert isinstance(item.answer, int)
    line = text_of(item, answer).split("\n")[0].strip()
    written = line.translate(_NO_PUNCTUATION).upper()
    label = written if len(written) == 1 and written in LETTERS else "none"
    return Outcome(label == LETTERS[item.answer], label, nll=nll_of(answer))


def letter_decided(text: str) -> bool:
    """Whether the text so far settles the score, whatever follows.

    True once there are two characters other than punctuation and white space, or one that is no
    letter from A to D: both are wrong. A single letter is never settled: a word may come of it.
    """
    said = text.translate(_NO_PUNCTUATION).replace("\ufffd", "")  # half a character
    said = "".join(said.split()).upper()
    return len(said) > 1 or said not in ("", *LETTERS)


_KINDS: Final = {
    "mmlu": (_ranked, _score_ranked, "mmlu-letter-loglik/1"),
    "mmlu-gen": (_generated, _score_generated, "mmlu-letter-exact/1"),
}
