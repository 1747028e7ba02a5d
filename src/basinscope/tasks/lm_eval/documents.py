"""Documents of lm-eval tasks, scored by lm-eval's own filters and ``process_results``."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from basinscope.errors import BasinscopeError
from basinscope.tasks.base import Answer, Generation, Item, Outcome, Ranking
from basinscope.tasks.lm_eval.library import library, undisturbed
from basinscope.tasks.lm_eval.requests import Place

Response = tuple[float, bool] | str
"""What lm-eval's models return: log-likelihood and whether it is the greedy text; or a text."""

_LABEL: Final = 60  # characters of a text that a record keeps
_NEED_GREEDY: Final = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")


@dataclass(frozen=True)
class Document:
    """One document of a task, and where the answers to its requests are.

    Args:
        task: of lm-eval, built.
        doc: the document.
        number: of the document.
        kinds: request type of each instance.
        places: of each instance.
        metric: key of the value that ``process_results`` returns.
        filter: name of the filter that the answers go through before.
    """

    task: Any
    doc: Any
    number: int
    kinds: tuple[str, ...]
    places: tuple[Place, ...]
    metric: str
    filter: str

    def value(self, responses: Sequence[Response]) -> tuple[float, list[Any]]:
        """lm-eval's metric of the document, and the filtered answers."""
        doc = copy.deepcopy(self.doc)
        repeats = getattr(self.task.config, "repeats", None) or 1
        instances = [
            library().instance.Instance(
                request_type=kind, doc=doc, arguments=(), idx=i,
                metadata=(self.task.task_name, self.number, repeats), resps=[response] * repeats,
            )
            for i, (kind, response) in enumerate(zip(self.kinds, responses, strict=True))
        ]  # fmt: skip
        ensemble = next(f for f in self.task._filters if f.name == self.filter)
        ensemble.apply(instances)
        filtered = [instance.filtered_resps[self.filter] for instance in instances]
        metrics = self.task.process_results(doc, filtered)
        if self.metric not in metrics:
            raise KeyError(f"process_results gives {', '.join(metrics)}, no {self.metric}")
        return float(metrics[self.metric]), filtered

    def responses(self, item: Item, answers: Sequence[Answer]) -> list[Response]:
        """Answers to the requests as lm-eval's models would give them, an instance each."""
        responses: list[Response] = []
        for kind, (request, nth) in zip(self.kinds, self.places, strict=True):
            answer = answers[request]
            wanted = Ranking if kind == "loglikelihood" else Generation
            if not isinstance(answer, wanted):
                raise TypeError(
                    f"item {item.id!r} asks for a {wanted.__name__}, got {type(answer).__name__}"
                )
            if isinstance(answer, Generation):
                responses.append(answer.text)
                continue
            assert isinstance(answer, Ranking)
            if not answer.greedy and not (self.is_choice and self.metric in _NEED_GREEDY):
                raise TypeError(f"item {item.id!r}: the engine does not say what is greedy")
            responses.append((answer.loglik[nth], bool(answer.greedy and answer.greedy[nth])))
        return responses

    @property
    def is_choice(self) -> bool:
        """Whether lm-eval itself picks the likeliest of several continuations."""
        by_function = callable(self.task.config.process_results)
        return self.task.OUTPUT_TYPE == "multiple_choice" and not by_function

    def right(self) -> list[int]:
        """Numbers of the right choices; empty if none is given."""
        task = self.task
        gold = task.doc_to_text(self.doc) if task.multiple_input else task.doc_to_target(self.doc)
        choices = task.doc_to_choice(self.doc)
        if isinstance(gold, str):
            gold = choices.index(gold) if gold in choices else []
        numbers = gold if isinstance(gold, list) else [gold]
        return [i for i in numbers if isinstance(i, int) and 0 <= i < len(choices)]

    def scores(self, loglik: Sequence[float]) -> list[float]:
        """What the metric compares, for each choice: nats, nats a character, nats a byte."""
        choices = self.task.doc_to_choice(self.doc)
        nats = list(loglik[: len(choices)])
        if self.metric == "acc_norm":
            return [x / len(c) if c else -math.inf for x, c in zip(nats, choices, strict=True)]
        if self.metric == "acc_bytes":
            sizes = [len(c.encode()) for c in choices]
            return [x / n if n else -math.inf for x, n in zip(nats, sizes, strict=True)]
        if self.metric == "acc_mutual_info":
            return [x - y for x, y in zip(nats, loglik[len(choices) :], strict=True)]
        return nats


@dataclass(frozen=True)
class LmEval:
    """A task, or a group of tasks, of lm-eval.

    Args:
        name: the word from which it is built again.
        items: one a document; ids are document numbers, with ``task/`` before them in a group.
        chance: mean over the documents of the share of right choices; 0 for written answers.
        scoring: version of lm-eval, metric, filter and a hash of settings and documents.
        documents: of the items, by id.
        allow_code_execution: whether functions of the user's YAML files may be run.
    """

    name: str
    items: tuple[Item, ...]
    chance: float
    scoring: str
    documents: Mapping[str, Document] = field(repr=False, compare=False)
    allow_code_execution: bool = False

    def oracle(self, item: Item, answers: Sequence[Answer]) -> Outcome:
        """Score the answers to ``item`` by lm-eval's metric of that document.

        The margin of a choice is in what the metric compares: nats (``acc``), nats a character
        (``acc_norm``) or a byte (``acc_bytes``) of the likeliest right choice over the likeliest
        other; the nll is that of the likeliest right choice. A document on which lm-eval's own code
        fails is wrong, and its label says how.
        """
        document = self.documents[item.id]
        responses = document.responses(item, answers)
        with undisturbed():
            try:
                value, filtered = document.value(responses)
            except Exception as error:  # gibberish may be more than a metric was written for
                return Outcome(False, f"{document.metric}: {type(error).__name__}")
            if value not in (0.0, 1.0):
                raise BasinscopeError(
                    f"lm-eval metric {document.metric!r} is {value:g} for item {item.id!r}",
                    "0 or 1 for each document",
                    "name another metric: lm-eval:NAME@METRIC",
                )
            return _described(document, value == 1.0, responses, filtered)


def _described(
    document: Document, correct: bool, responses: Sequence[Response], filtered: Sequence[Any]
) -> Outcome:
    """Outcome with its label, margin and nll."""
    if not all(isinstance(response, tuple) for response in responses):
        text = filtered[0] if len(filtered) == 1 else filtered
        return Outcome(correct, str(text)[:_LABEL])
    pairs: list[Any] = list(responses)
    loglik, greedy = zip(*pairs, strict=True)
    if not document.is_choice:
        nll = -loglik[0] if document.task.OUTPUT_TYPE == "loglikelihood" else None
        return Outcome(correct, "greedy" if all(greedy) else "not greedy", nll=nll)
    scores, right = document.scores(loglik), document.right()
    label = str(scores.index(max(scores)))
    if not right:
        return Outcome(correct, label)
    others = [x for i, x in enumerate(scores) if i not in right]
    margin = max(scores[i] for i in right) - max(others) if others else None
    if document.metric == "exact_match":
        margin = None
    return Outcome(correct, label, margin, -max(loglik[i] for i in right))
