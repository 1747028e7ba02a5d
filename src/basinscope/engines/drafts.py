"""Guesses of what a perturbed model will write, to be verified many tokens in one pass.

Under greedy decoding a guess changes nothing but time: a token is written because the live weights
chose it after the tokens before it, and a guess only says which tokens to run ahead of that choice
(Leviathan et al. 2023, "Fast inference from transformers via speculative decoding", arXiv
2211.17192; guesses from the text itself as in prompt lookup decoding). Small perturbations leave
most answers as they are for many tokens, so the nearest answer known is a good guess.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence

from basinscope.tasks.base import Generate

KEPT_TOKENS = 1 << 22  # of answers that are kept: 16 MB
LONGEST = 32  # tokens guessed in one pass
NGRAM = 3  # tokens that must agree before a text is taken to go on as an earlier one did
PASS_TOKENS = 48  # a pass takes as long as so many tokens more: reading the weights, and overhead
MOST_TOKENS = 512  # of a pass with guesses: more run no faster, and their logits take memory
_PRIOR, _WEIGHT = 0.7, 4.0  # share of right guesses before any is seen, and how firmly
_FADE = 0.9  # what older guesses count beside those of the next pass


class Drafts:
    """Tokens of answers by request, each from the weights nearest to the pristine ones so far.

    They may outlive the weights that wrote them, as nothing computed from weights else does: they
    are texts, not numbers, and none is taken without being verified under the live weights. An
    engine that has none, such as a new worker's, writes the same answers.
    """

    def __init__(self) -> None:
        self._kept: dict[Generate, tuple[float, array[int]]] = {}
        self._tokens = 0

    def find(self, request: Generate) -> Sequence[int]:
        """Tokens of the answer kept for a request; none if there is none."""
        return self._kept.get(request, (0.0, ()))[1]

    def keep(self, request: Generate, tokens: Sequence[int], distance: float) -> None:
        """Keep an answer, unless one from nearer to the pristine weights is there."""
        before = self._kept.get(request)
        if before is not None and before[0] < distance:
            return
        self._tokens += len(tokens) - (len(before[1]) if before is not None else 0)
        if self._tokens > KEPT_TOKENS:
            self._kept, self._tokens = {}, len(tokens)
        self._kept[request] = distance, array("i", tokens)


class Guess:
    """What one text may go on with: as the draft does, or as it went on itself before.

    Args:
        draft: tokens of another answer to the same request.
        vocabulary: number of tokens; a draft counts up to the first that is none of them.
    """

    def __init__(self, draft: Sequence[int], vocabulary: int) -> None:
        valid = next((i for i, t in enumerate(draft) if not 0 <= t < vocabulary), len(draft))
        self._source = [*draft[:valid], -1]  # the draft, its end, then what has been written
        self._written = len(self._source)
        self._after: dict[tuple[int, ...], int] = {}
        for i in range(NGRAM, valid):
            self._after.setdefault(tuple(self._source[i - NGRAM : i]), i)
        self._at: int | None = 0  # where the next token is looked for
        self.hits, self.tries = 0.0, 0.0

    def next(self, most: int) -> list[int]:
        """At most so many tokens that may come next."""
        guesses: list[int] = []
        if self._at is None:
            return guesses
        while len(guesses) < most:
            i = self._at + len(guesses)
            # a text that repeats itself is guessed to go on doing so
            token = self._source[i] if i < len(self._source) else guesses[i - len(self._source)]
            if token < 0:
                break
            guesses.append(token)
        return guesses

    def take(self, token: int) -> None:
        """Follow the text by one token."""
        source = self._source
        at, expected = self._at, None
        if at is not None:
            expected = source[at] if at < len(source) else None
        source.append(token)
        last = tuple(source[max(self._written, len(source) - NGRAM) :])
        if at is not None and expected == token:
            self._at = at + 1
        else:
            self._at = self._after.get(last)
        if len(last) == NGRAM:
            self._after[last] = len(source)

    def judge(self, right: int, tried: int) -> None:
        """Remember how many of the guesses that were tried were right."""
        self.hits = _FADE * self.hits + right
        self.tries = _FADE * self.tries + tried

    @property
    def share(self) -> float:
        """Estimated probability that the next guess is right."""
        return (self.hits + _WEIGHT * _PRIOR) / (self.tries + _WEIGHT)


def lengths(shares: Sequence[float], most: Sequence[int], room: int = MOST_TOKENS) -> list[int]:
    """How many tokens to guess for each text, so that a pass writes most tokens in its time.

    A pass over n tokens takes as long as `PASS_TOKENS` + n tokens; a guess is worth the probability
    that it and all before it are right. Guesses are added in order of their worth, as long as they
    raise the number of tokens written per time.

    Args:
        shares: probability of each text's next guess.
        most: most tokens that each may guess.
        room: most tokens of the pass, one for each text among them.
    """
    taken = [0] * len(shares)
    written, spent = float(len(shares)), float(PASS_TOKENS + len(shares))
    heap = [(-share, b, 1) for b, share in enumerate(shares) if most[b] > 0]
    heapq.heapify(heap)
    while heap and spent - PASS_TOKENS < min(room, MOST_TOKENS):
        worth, b, n = heapq.heappop(heap)
        if -worth * spent <= written:
            break
        taken[b], written, spent = n, written - worth, spent + 1
        if n < most[b]:
            heapq.heappush(heap, (worth * shares[b], b, n + 1))
    return taken
