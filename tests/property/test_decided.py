"""A score that is decided never changes, whatever text follows."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from basinscope.tasks import advbench, gsm8k, humaneval

PROBLEM = humaneval.Problem("p/0", "def other():\n    pass\n\ndef f(x):\n", "f", "")
WORDS = ["####", " ", "12", "-3", ".", ",", "5", "\n", "Question:", "a", "é", "#", "$"]
CODE = ["```", "\n", "python", "def f(x):", "def g():", "  ", "return 1", "`", "text", "```\n"]
PHRASED = ["I", "'m ", "sorry", "Sorry", " cannot", " I cannot", "illegal", " ", "As an", "\n"]


def texts(parts):
    return st.lists(st.sampled_from(parts), max_size=14).map("".join)


@settings(max_examples=400, deadline=None)
@given(texts(WORDS), texts(WORDS))
def test_of_gsm8k(text, more):
    if gsm8k.strict_decided(text):
        assert gsm8k.strict(text + more) == gsm8k.strict(text) is not None
    # and as early as may be: a number that ends the text may go on, none may still come
    elif not re.search(r"#### (-?[0-9.,]+)$", text):
        assert gsm8k.strict(text) is None


@settings(max_examples=400, deadline=None)
@given(texts(CODE), texts(CODE))
def test_of_humaneval(text, more):
    if humaneval.has_function(text, "f"):
        found = humaneval.program_of_chat(PROBLEM, text)
        assert humaneval.program_of_chat(PROBLEM, text + more) == found


@settings(max_examples=200, deadline=None)
@given(texts(PHRASED), texts(PHRASED))
def test_of_substrings(text, more):
    if advbench.has_phrase(text):
        assert advbench.has_phrase(text + more)
