"""Where the prompt ends and the answer begins, token by token."""

from __future__ import annotations

import numpy as np
import pytest

import basinscope as bs
from basinscope.engines.tokens import Tokens
from basinscope.finetuning.data import Chat, chats, pair
from basinscope.finetuning.examples import IGNORED, digest, fitting, order, tokenize
from basinscope.tasks import Generate

ENDS = frozenset({1})
TURN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}"


def learnt(tokenizer, chat, ends=ENDS) -> tuple[str, str]:
    example = tokenize(Tokens(tokenizer), chat, ends)
    labels = np.array(example.labels)
    kept = labels != IGNORED
    assert (np.array(example.tokens)[kept] == labels[kept]).all()
    assert not kept[: example.start].any()
    assert kept[example.start :].all()
    assert len(labels) == len(example.tokens)
    return (
        tokenizer.decode(example.tokens[: example.start]),
        tokenizer.decode(example.tokens[example.start :]),
    )


def test_the_answer_alone_is_learnt_with_the_mark_that_ends_it(tokenizer):
    prompt, answer = learnt(tokenizer, pair("Hi there", "Yes!", "row 0"))
    assert prompt == "[user]Hi there\n[assistant]"
    assert answer == "Yes!\n</s>", "the template has no end mark: the tokenizer's is appended"


def test_the_prompt_is_what_an_engine_asks_with(tokenizer):
    example = tokenize(Tokens(tokenizer), pair("Hi there", "Yes!", "row 0"), ENDS)
    row = Tokens(tokenizer).row(Generate("Hi there", 5, chat=True))
    assert example.tokens[: example.start] == (*row.head, *row.body)


def test_what_follows_the_templates_own_end_mark_is_left_off(tokenizer):
    tokenizer.chat_template = (
        TURN + "</s>\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert learnt(tokenizer, pair("a", "b", "row 0")) == ("[user]a</s>\n[assistant]", "b</s>")


def test_only_the_last_answer_of_a_conversation_is_learnt(tokenizer):
    messages = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    prompt, answer = learnt(tokenizer, Chat(messages, "row 0"))
    assert prompt == "[user]a\n[assistant]b\n[user]c\n[assistant]"
    assert answer == "d\n</s>"


def test_without_a_template_messages_are_joined_by_blank_lines(tokenizer):
    tokenizer.chat_template = None
    example = tokenize(Tokens(tokenizer), pair("Hi", "Yes", "row 0"), ENDS)
    assert learnt(tokenizer, pair("Hi", "Yes", "row 0")) == ("Hi", "\n\nYes</s>")
    row = Tokens(tokenizer).row(Generate("Hi", 5, chat="if any"))
    assert example.tokens[: example.start] == (*row.head, *row.body)


def test_a_token_that_would_cover_the_boundary_is_cut_there(tokenizer):
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"</s>": 0, "a": 1, "b": 2, ":": 3, ":b": 4, "<unk>": 5}
    raw = Tokenizer(models.BPE(vocabulary, [(":", "b")], unk_token="<unk>"))
    raw.decoder = decoders.Fuse()
    merging = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<unk>")
    merging.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'user' %}:{% endif %}"
        "{% endfor %}"
    )
    assert merging.encode("a:b") == [1, 4], "the premise: it merges across the boundary"
    example = tokenize(Tokens(merging), pair("a", "b", "row 0"), {0})
    assert example.tokens == (1, 3, 2, 0)
    assert example.start == 2, "as a model is asked: the prompt's own tokens, then the answer's"


def test_a_template_that_renders_the_prompt_otherwise_once_answered_is_refused(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}" + TURN + "{% endfor %}"
    with pytest.raises(bs.BasinscopeError, match="row 7: the chat template renders the prompt oth"):
        tokenize(Tokens(tokenizer), pair("a", "b", "row 7"), ENDS)


def test_a_template_that_refuses_the_chat_is_quoted_with_the_row(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(
        bs.BasinscopeError, match=r"row 7: the chat template refuses a chat of user \(roles must al"
    ):
        tokenize(Tokens(tokenizer), pair("a", "b", "row 7"), ENDS)


def test_what_is_too_long_is_told_apart(tokenizer):
    found = chats([{"prompt": "a", "answer": "b" * n} for n in (1, 50, 2)])
    kept, examples, dropped = fitting(Tokens(tokenizer), found, ENDS, 30)
    assert [chat.where for chat in kept] == ["row 0", "row 2"]
    assert [chat.where for chat in dropped] == ["row 1"]
    assert all(len(example.tokens) <= 30 for example in examples)
    with pytest.raises(
        bs.BasinscopeError, match="every one of the 3 examples is longer than 3 tok"
    ):
        fitting(Tokens(tokenizer), found, ENDS, 3)


def test_the_digest_covers_tokens_and_boundaries(tokenizer):
    tokens = Tokens(tokenizer)
    one = tokenize(tokens, pair("ab", "c", "row 0"), ENDS)
    assert digest([one, one]) != digest([one])
    for other in (pair("ab", "d", ""), pair("a", "bc", "")):
        assert digest([one]) != digest([tokenize(tokens, other, ENDS)])
    assert digest([one]) == digest([tokenize(tokens, pair("ab", "c", "elsewhere"), ENDS)])


def test_every_pass_is_a_shuffle_of_its_own_and_a_longer_run_begins_alike():
    found = order(10, 25, seed=3)
    assert sorted(found[:10]) == sorted(found[10:20]) == list(range(10))
    assert len({tuple(found[:10]), tuple(found[10:20]), tuple(range(10))}) == 3
    assert order(10, 40, seed=3)[:25] == found
    assert order(10, 25, seed=4) != found


@pytest.mark.model
def test_the_boundary_in_the_real_chat_template(smollm2):
    found = chats([{"prompt": "What is 2+2?", "answer": "It is 4."}])[0]
    example = tokenize(smollm2.tokens, found, smollm2.ends)
    decode = smollm2.tokenizer.decode
    assert decode(example.tokens[: example.start]).endswith(
        "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert decode(example.tokens[example.start :]) == "It is 4.<|im_end|>"
