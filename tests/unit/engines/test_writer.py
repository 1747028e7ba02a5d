"""A text read by its last tokens alone ends where the whole does."""

import random

import pytest
import toys

from basinscope.engines.tokens import Tokens
from basinscope.engines.writer import Writer
from basinscope.tasks import Generate, Generation

TEXT = "naïve “café” — 12 €; 日本語, 👩‍🚀!\n\n" * 6


class Bytes:
    """Tokens are bytes: a character may take four of them."""

    def text(self, tokens, *, begins=False):
        return bytes(tokens).decode("utf-8", errors="replace")


class Stripped(Bytes):
    """The first space of a text is no part of it, as in some tokenizers."""

    def text(self, tokens, *, begins=False):
        return super().text(tokens).removeprefix(" ")


class Reversed(Bytes):
    """How a text begins changes with every token: it can only be read as a whole."""

    def text(self, tokens, *, begins=False):
        return super().text(tokens)[::-1]


def written(reader, tokens, **options):
    writer = Writer(reader, frozenset([300]), Generate("", 500, **options))
    for n, token in enumerate(tokens):
        writer.take(token, True)
        if writer.done:
            return n + 1, writer.result()
    return None, writer.result()


@pytest.mark.parametrize("reader", [Bytes(), Stripped(), Reversed()])
class TestReading:
    def test_is_that_of_the_whole(self, reader):
        seen = []
        tokens = list(f"  {TEXT}".encode())
        written(reader, tokens, decided=lambda text: bool(seen.append(text)))
        assert seen == [reader.text(tokens[: n + 1]) for n in range(len(seen))]
        assert len(seen) == min(len(tokens), 500)

    def test_stops_at_the_token_that_completes_a_stop(self, reader):
        tokens = list(TEXT.encode())
        rng = random.Random(0)
        for _ in range(40):
            a = rng.randrange(len(TEXT) // 2)
            stop = TEXT[a : a + rng.randint(1, 9)]
            first = next((n + 1 for n in range(500) if stop in reader.text(tokens[: n + 1])), None)
            count, answer = written(reader, tokens, stop=(stop,))
            if first is not None and first < len(tokens):
                assert count == first
                assert answer == Generation(reader.text(tokens[:first]).split(stop)[0], True)


def test_takes_time_that_grows_with_the_text_and_not_with_its_square():
    class Counting(Bytes):
        read = 0

        def text(self, tokens, *, begins=False):
            Counting.read += len(tokens)
            return super().text(tokens)

    written(Counting(), b"abc " * 100, stop=("never",))
    assert Counting.read < 400 * 40


def test_a_decision_that_the_whole_does_not_bear_out_ends_nothing():
    class Odd(Bytes):
        """A text read in parts holds what the whole does not."""

        def text(self, tokens, *, begins=False):
            return super().text(tokens) + ("!" if 8 < len(tokens) < 20 else "")

    _, answer = written(Odd(), b"a" * 19 + b"b" * 80, stop=("!b",))
    assert answer.text == "a" * 19 + "b" * 80


def test_an_end_token_ends_the_text_and_is_no_part_of_it():
    writer = Writer(Tokens(toys.tiny_tokenizer()), frozenset([1]), Generate("", 5))
    for token in (40, 41, 1, 42):
        writer.take(token, True)
    assert (writer.tokens, writer.finished) == ([40, 41], True)


def test_what_is_not_finite_ends_the_text_with_a_failure():
    writer = Writer(Bytes(), frozenset(), Generate("", 5))
    writer.take(97, True)
    writer.take(98, False)
    writer.take(99, True)
    assert writer.result() == Generation("a", False, "non-finite logits")
