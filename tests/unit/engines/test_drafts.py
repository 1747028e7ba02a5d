"""Guesses are proposals only; what is tested here is that they are sensible ones."""

import math

import pytest

from basinscope.engines import drafts
from basinscope.engines.drafts import PASS_TOKENS, Drafts, Guess, lengths
from basinscope.tasks import Generate

ASK = Generate("a", 9)


class TestDrafts:
    def test_of_nothing_are_empty(self):
        assert list(Drafts().find(ASK)) == []

    def test_come_from_the_weights_nearest_to_the_pristine_ones(self):
        kept = Drafts()
        for tokens, distance in (([1], 0.02), ([2], 0.03), ([3], 0.01), ([4], 0.01), ([5], 0.02)):
            kept.keep(ASK, tokens, distance)
        assert list(kept.find(ASK)) == [4]
        kept.keep(ASK, [6], 0.0)
        assert list(kept.find(ASK)) == [6]

    def test_belong_to_their_request(self):
        kept = Drafts()
        kept.keep(ASK, [1], 0.0)
        assert list(kept.find(Generate("a", 8))) == []
        assert list(kept.find(Generate("a", 9, decided=bool))) == [1]

    def test_are_bounded(self, monkeypatch):
        monkeypatch.setattr(drafts, "KEPT_TOKENS", 10)
        kept = Drafts()
        for i in range(50):
            kept.keep(Generate(str(i % 7), 9), [i] * 4, 0.0)
            assert sum(len(kept.find(Generate(str(k), 9))) for k in range(7)) <= 10
        assert list(kept.find(Generate("0", 9))) == [49] * 4


def follow(guess, tokens):
    for token in tokens:
        guess.take(token)


class TestGuess:
    def test_begins_with_the_draft(self):
        assert Guess([5, 6, 7], 99).next(2) == [5, 6]

    def test_follows_the_draft_while_it_is_right(self):
        guess = Guess([5, 6, 7, 8], 99)
        follow(guess, [5, 6])
        assert guess.next(9) == [7, 8]

    def test_ends_with_the_draft(self):
        guess = Guess([5, 6], 99)
        follow(guess, [5, 6])
        assert guess.next(9) == []

    def test_of_nothing_is_nothing(self):
        assert Guess([], 99).next(9) == []

    def test_finds_back_into_the_draft_behind_a_change(self):
        guess = Guess([1, 2, 3, 4, 5, 6, 7, 8], 99)
        follow(guess, [1, 2, 90])
        assert guess.next(9) == []
        follow(guess, [91, 4, 5, 6])
        assert guess.next(9) == [7, 8]

    def test_goes_on_as_the_text_itself_did(self):
        guess = Guess([], 99)
        follow(guess, [1, 2, 3, 4, 5, 1, 2, 3])
        assert guess.next(3) == [4, 5, 1]

    def test_goes_on_repeating(self):
        guess = Guess([], 99)
        follow(guess, [8, 1, 2, 1, 2, 1, 2, 1])
        assert guess.next(5) == [2, 1, 2, 1, 2]

    @pytest.mark.parametrize("bad", [-1, 99, 1 << 40])
    def test_holds_tokens_of_the_vocabulary_only(self, bad):
        assert Guess([5, 6, bad, 7], 99).next(9) == [5, 6]

    def test_learns_how_often_it_is_right(self):
        guess = Guess([], 99)
        prior = guess.share
        guess.judge(8, 8)
        assert prior < guess.share < 1
        for _ in range(40):
            guess.judge(0, 1)
        assert guess.share < 0.25


class TestLengths:
    def test_of_certain_guesses_are_whole(self):
        assert lengths([1.0, 1.0], [32, 5]) == [32, 5]

    def test_of_hopeless_guesses_are_none(self):
        assert lengths([0.0] * 3, [32] * 3) == [0] * 3

    def test_of_nothing_are_none(self):
        assert lengths([0.9, 0.9], [0, 0]) == [0, 0]

    def test_fit_the_room(self):
        assert sum(lengths([1.0] * 10, [32] * 10, 64)) == 54
        assert sum(lengths([1.0] * 64, [32] * 64)) == drafts.MOST_TOKENS - 64
        assert lengths([1.0] * 10, [32] * 10, 8) == [0] * 10

    def test_grow_where_few_texts_are_left(self):
        few, many = lengths([0.5], [32])[0], lengths([0.5] * 128, [32] * 128)
        assert few > max(many)

    @pytest.mark.parametrize("shares", [(0.9, 0.6, 0.3), (0.8,) * 3, (0.99, 0.01, 0.5)])
    def test_write_most_tokens_in_the_time(self, shares):
        def speed(taken):
            each = zip(shares, taken, strict=True)
            written = sum(math.fsum(p**i for i in range(n + 1)) for p, n in each)
            return written / (PASS_TOKENS + len(shares) + sum(taken))

        found = lengths(shares, [7] * 3)
        every = [(a, b, c) for a in range(8) for b in range(8) for c in range(8)]
        assert speed(found) == pytest.approx(max(map(speed, every)))
