"""Every kind of tokenizer against transformers' own round trip: what is asked, scored, written."""

from __future__ import annotations

import pytest
import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizer, PreTrainedTokenizerFast

import basinscope as bs
from basinscope.engines.tokens import Tokens
from basinscope.engines.writer import Writer
from basinscope.finetuning.data import pair
from basinscope.finetuning.examples import tokenize
from basinscope.tasks import Choices, Corpus, Generate

SPECIAL = ["</s>", "<s>", "<unk>"]
LETTERS = [*map(chr, range(32, 127)), "\n"]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def fast(raw: Tokenizer, front: str = "", back: str = "") -> PreTrainedTokenizerFast:
    if front or back:
        ids = [(token, raw.token_to_id(token)) for token in (front + " " + back).split()]
        raw.post_processor = processors.TemplateProcessing(
            single=f"{front} $A {back}".strip(), special_tokens=ids
        )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **marks)


def byte_level(front: str = "", back: str = "", *, space: bool = False):
    raw = Tokenizer(models.BPE({c: i for i, c in enumerate([*SPECIAL, *BYTES])}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    raw.decoder = decoders.ByteLevel()
    return fast(raw, front, back)


def pieces(words: tuple[str, ...] = ()):
    """BPE over letters, bytes for the others, and merges that make some words one token each."""
    spelt = [c.replace(" ", "▁") for c in LETTERS]
    vocabulary = [*SPECIAL, *(f"<0x{b:02X}>" for b in range(256)), *spelt]
    merges = []
    for word in words:
        for n in range(1, len(word)):
            merges.append((word[:n], word[n]))
            vocabulary.append(word[: n + 1])
    ids = {c: i for i, c in enumerate(dict.fromkeys(vocabulary))}
    return Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True))


def llama2(front: str = "<s>", back: str = ""):
    """The space of the first word is put there by the normaliser and taken away in decoding."""
    raw = pieces(("▁▁", "▁a", "▁the"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return fast(raw, front, back)


def metaspace(scheme: str):
    raw = pieces()
    raw.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme, split=False)
    raw.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace("▁", scheme, split=False)]
    )
    return fast(raw, "<s>")


def wordpiece():
    letters = [c for c in LETTERS if not c.isspace()]
    vocabulary = [*SPECIAL, "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters), "hello"]
    raw = Tokenizer(models.WordPiece({c: i for i, c in enumerate(vocabulary)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece(cleanup=False)
    return fast(raw, "[CLS]", "[SEP]")


class Characters(PreTrainedTokenizer):
    """No fast form: Python alone, with an end token behind every text."""

    def __init__(self, **options):
        self.letters = [*SPECIAL, *LETTERS]
        super().__init__(bos_token="<s>", eos_token="</s>", unk_token="<unk>", **options)

    @property
    def vocab_size(self):
        return len(self.letters)

    def get_vocab(self):
        return {c: i for i, c in enumerate(self.letters)} | self.added_tokens_encoder

    def _tokenize(self, text, **_):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.letters.index(token) if token in self.letters else 2

    def _convert_id_to_token(self, index):
        return self.letters[index]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)

    def build_inputs_with_special_tokens(self, first, second=None):
        return [1, *first, 0]


KINDS = {
    "byte-level": byte_level,
    "byte-level, start": lambda: byte_level("<s>"),
    "byte-level, end": lambda: byte_level("", "</s>"),
    "byte-level, both": lambda: byte_level("<s>", "</s>"),
    "byte-level, two in front": lambda: byte_level("<unk> <s>", "</s>"),
    "byte-level, prefix space": lambda: byte_level("<s>", space=True),
    "Llama 2": llama2,
    "Llama 2, end": lambda: llama2("<s>", "</s>"),
    "metaspace always": lambda: metaspace("always"),
    "metaspace first": lambda: metaspace("first"),
    "metaspace never": lambda: metaspace("never"),
    "no fast form": Characters,
}
EVERY = {**KINDS, "WordPiece": wordpiece}
ENDED = {"byte-level, end", "byte-level, both", "byte-level, two in front", "Llama 2, end",
         "no fast form", "WordPiece"}  # fmt: skip
TEXTS = [
    ("def one():\n", "    return 1\n"),
    ("One two", " three"),
    ("One two", "fold"),
    ("Answer: ", "B"),
    ("Answer:\n", "\n  - the a\n"),
    ("So", ", then."),
    ("Who", " are  you?"),
]


def opened(tokenizer, text: str) -> list[int]:
    """What transformers reads of a text that goes on: all but an end token."""
    tokens = list(tokenizer.encode(text))
    bare = list(tokenizer.encode(text, add_special_tokens=False))
    return tokens[: len(tokens) - (tokens[-1] != bare[-1])]


@pytest.fixture(params=EVERY)
def kind(request):
    return request.param


@pytest.fixture
def made(kind):
    return EVERY[kind]()


def test_which_kinds_append_an_end_token(kind, made):
    assert (opened(made, "One") != made.encode("One")) == (kind in ENDED), "the premise"
    assert bool(Tokens(made).scheme) == (
        kind in ENDED or kind in ("Llama 2", "metaspace always", "metaspace first")
    )


@pytest.mark.parametrize("text", [text for pair in TEXTS for text in pair])
def test_a_prompt_has_no_end_token(made, text):
    row = Tokens(made).row(Generate(text, 3))
    assert [*row.head, *row.body] == opened(made, text)


@pytest.mark.parametrize(("context", "continuation"), TEXTS)
def test_a_continuation_is_what_follows_its_context(made, context, continuation):
    row = Tokens(made).row(Choices(context, (continuation,)))
    (tail,) = row.tails
    assert [*row.head, *row.body, *tail] == opened(made, context + continuation)
    scored = len(tail) - row.skips[0]
    assert scored == len(opened(made, context + continuation)) - len(opened(made, context))


def test_a_prefix_leaves_the_row_as_it_is(made):
    prefix, text = "Question: what is it? Answer: nobody.\n\n" * 2, "Who?"
    for request in (Generate(text, 3, prefix=prefix), Choices(text, (" I",), prefix=prefix)):
        row = Tokens(made).row(request)
        assert [*row.head, *row.body][: len(row.head) + 9] == opened(made, prefix + text)
        assert len(row.head) > 16


def test_without_a_text_stands_the_start(kind, made):
    front = opened(made, "x")[: -len(made.encode("x", add_special_tokens=False))]
    row = Tokens(made).row(Generate("", 3))
    assert list(row.body) == (front or [made.bos_token_id])
    row = Tokens(made).row(Choices("", ("x", "y")))
    assert list(row.body)[: len(front)] == front


def test_a_corpus_scores_no_end_token(made):
    (row,) = Tokens(made).windows(Corpus("One two three"), 64)
    assert [*row.body, *row.tails[0]] == opened(made, "One two three")


def written(tokens: Tokens, prompt: str, ids: list[int]) -> str:
    """Text that an engine says was written, token by token, with stops to be looked for."""
    row = tokens.row(Generate(prompt, 1))
    request = Generate(prompt, 99, stop=("nowhere",))
    writer = Writer(tokens, frozenset([0]), request, tokens.begins_text(row))
    for token in ids:
        writer.take(token, True)
    return writer.result().text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("prompt", "text"), [*TEXTS, ("", "Hello"), ("a", "a" * 40)])
def test_a_written_text_is_all_that_was_written(kind, made, prompt, text):
    tokens = Tokens(made)
    start, whole = opened(made, prompt) if prompt else [], opened(made, prompt + text)
    if not prompt:
        start = list(tokens.row(Generate("", 1)).body)
        start = start if whole[: len(start)] == start else []
    assert whole[: len(start)] == start, "the premise: nothing merges across the boundary"
    expected = text
    if kind == "byte-level, prefix space" and not prompt:
        expected = f" {text}"  # transformers' own round trip adds that space
    assert written(tokens, prompt, whole[len(start) :]) == expected


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "no fast form"])
def test_characters_of_several_tokens_are_written_whole(made):
    bare = made.encode("é 🙂é🙂", add_special_tokens=False)
    start = made.encode("é", add_special_tokens=False)
    assert written(Tokens(made), "é", bare[len(start) :]) == " 🙂é🙂"


def test_a_word_written_behind_another_has_its_space():
    tokenizer = wordpiece()
    ids = tokenizer.encode("hello, you", add_special_tokens=False)
    assert written(Tokens(tokenizer), "hello", ids[2:]) == " you"
    assert written(Tokens(tokenizer), "hello", ids[:1]) == " hello"


@pytest.mark.parametrize("kind", ["Llama 2", "metaspace first", "byte-level", "no fast form"])
@pytest.mark.parametrize("answer", ["Hello", " Hello", "\nHello"])
def test_behind_a_special_token_a_text_may_begin_anew(kind, answer):
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|says|>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|says|>{% endfor %}"
    tokens = Tokens(tokenizer)
    row = tokens.row(Generate("Hi", 9, chat=True))
    assert row.body[-1] == tokenizer.convert_tokens_to_ids("<|says|>")
    whole = tokenizer.encode(f"Hi<|says|>{answer}", add_special_tokens=False)
    writer = Writer(tokens, frozenset([0]), Generate("Hi", 99), tokens.begins_text(row))
    for token in whole[len(row.body) :]:
        writer.take(token, True)
    assert writer.result().text == answer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["Hello", " Hello", "\n- a", "42"])
def test_a_text_that_goes_on_is_read_without_a_first_space(made, text):
    tokens = Tokens(made)
    assert tokens.text(tokens.continuation(text)) == text


@pytest.mark.parametrize("templated", [False, True])
def test_a_reference_and_an_example_are_what_is_asked_with_the_answer(made, templated):
    if templated:
        made.chat_template = "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n{% endfor %}"
        made.chat_template += "{% if add_generation_prompt %}assistant:\n{% endif %}"
    tokens, request = Tokens(made), Generate("Hi", 9, chat="if any", reference="Yes")
    row, example = tokens.reference(request), tokenize(tokens, pair("Hi", "Yes", "row 0"), {0})
    prompt = "user:\nHi\nassistant:\n" if templated else "Hi"
    bare = made.encode(f"{prompt}Yes", add_special_tokens=False)
    asked = bare if templated else opened(made, f"{prompt}Yes")
    assert [*row.head, *row.body, *row.tails[0]] == asked
    asked = tokens.row(Generate("Hi", 9, chat="if any"))
    assert list(example.tokens[: example.start]) == [*asked.head, *asked.body]
    assert example.tokens[-1] == made.eos_token_id
    assert example.tokens.count(made.eos_token_id) == 1


def model_of(size: int, **options):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, initializer_range=0.3, bos_token_id=1, eos_token_id=0, **options,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("spare", [0, 7])
def test_answers_are_those_of_transformers(made, spare):
    """Spare rows of the embedding are tokens that the tokenizer cannot read."""
    model = model_of(len(made) + spare)
    engine = bs.load(model, tokenizer=made)
    context, words = "One two", (" three", " four")
    ranking, text, corpus = engine.answer(
        [Choices(context, words), Generate(context, 12), Corpus("One two three")]
    )

    def logp(row):
        with torch.no_grad():
            return model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)

    start = opened(made, context)
    expected = []
    for word in words:
        row = opened(made, context + word)
        scored = range(len(start), len(row))
        expected.append(sum(float(logp(row)[i - 1, row[i]]) for i in scored))
    assert ranking.loglik == pytest.approx(expected, abs=1e-3)
    assert corpus.n_tokens == len(opened(made, "One two three")) - 1
    row = list(start)
    for _ in range(12):
        token = int(logp(row)[-1].argmax())
        if token in engine.ends:
            break
        row.append(token)
    shown, before = (
        made.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for ids in (row, start)
    )
    assert shown.startswith(before), "the premise"
    assert text.text == shown[len(before) :]


class TestTokensWithoutAnEmbedding:
    @pytest.fixture
    def engine(self):
        tokenizer = byte_level()
        size = len(tokenizer)
        tokenizer.add_tokens([AddedToken("Budapest"), AddedToken("budapest")])
        return bs.load(model_of(size), tokenizer=tokenizer)

    @pytest.mark.parametrize(
        "request_", [Generate("In Budapest", 2), Choices("In", (" Budapest", " Wien")),
                     Corpus("In Budapest"), Generate("In", 2, reference=" Budapest")],
    )  # fmt: skip
    def test_are_named_with_the_size_of_the_table(self, engine, request_):
        with pytest.raises(
            bs.BasinscopeError,
            match=r"token 'Budapest' \(259\) has no embedding; allowed: tokens below 259",
        ):
            engine.answer([request_])

    def test_hurt_nobody_who_does_not_use_them(self, engine):
        (answer,) = engine.answer([Generate("In Wien", 2)])
        assert not answer.failure

    def test_are_named_with_the_row_of_training_data(self, engine, tmp_path):
        rows = [{"prompt": "Where?", "completion": text} for text in ("Wien", "Budapest")]
        with pytest.raises(bs.BasinscopeError, match=r"row 1: .*'Budapest' \(259\) has no emb"):
            bs.finetune(engine, rows, run=tmp_path / "out", steps=1)

    def test_may_be_the_end_or_the_start(self, tmp_path):
        tokenizer = byte_level()
        size = len(tokenizer)
        tokenizer.add_special_tokens({"eos_token": "<end>", "bos_token": "<begin>"})
        engine = bs.load(model_of(size), tokenizer=tokenizer)
        with pytest.raises(bs.BasinscopeError, match=r"'<begin>' \(\d+\) has no embedding"):
            engine.answer([Generate("", 2)])
        with pytest.raises(bs.BasinscopeError, match=r"row 0: .*'<end>' \(\d+\) has no embedding"):
            bs.finetune(engine, [{"prompt": "a", "answer": "b"}], run=tmp_path / "o", steps=1)

    def test_replace_no_token_of_a_certificate(self, engine):
        from basinscope.certify.tokens import _replacements

        engine.tokenizer.add_tokens([AddedToken("A ")])
        task = bs.tasks("basic", limit=2)[0]
        radii = {item.id: 1.0 for item in task.items}
        size = engine.forward.vocabulary
        found = list(_replacements(engine, task, "position", radii))
        assert found
        assert all(replacement.new < size for replacement in found)


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind != "no fast form"])
@pytest.mark.parametrize("text", ["half \ud83d", "\ude00"])
def test_half_a_character_is_refused(made, text):
    with pytest.raises(bs.BasinscopeError, match=r"the tokenizer cannot read .*whole characters"):
        Tokens(made).row(Generate(text, 3))


def test_a_text_without_tokens_for_it_is_refused():
    raw = Tokenizer(models.WordLevel({"</s>": 0, "<s>": 1, "one": 2}, unk_token="none"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = Tokens(PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>"))
    assert list(tokens.row(Generate("one one", 3)).body) == [2, 2]
    with pytest.raises(bs.BasinscopeError, match=r"cannot read 'one two' \(WordLevel error"):
        tokens.row(Generate("one two", 3))


def test_a_continuation_without_a_token_is_refused():
    with pytest.raises(bs.BasinscopeError, match=r"continuations \(' ',\); allowed: texts that"):
        Tokens(wordpiece_bare()).row(Choices("", (" ",)))


def wordpiece_bare():
    tokenizer = wordpiece()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", special_tokens=[]
    )
    return tokenizer


TURN = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
TEMPLATES = {
    "no system role": "{% if messages[0].role == 'system' %}{{ raise_exception('System role not"
    " supported') }}{% endif %}" + TURN,
    "syntax": "{% for m in messages %}{{ m.content",
    "wants tools": "{{ tools | length }}" + TURN,
    "undefined": "{{ messages[0].name.first }}" + TURN,
    "several, none of them default": {"tool_use": TURN},
    "writes nothing": "{# todo #}",
    "writes blanks": "\n {{ '\n' }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "division": "{{ 1 / 0 }}",
}


@pytest.mark.parametrize("case", TEMPLATES)
@pytest.mark.parametrize("words", ["chat", "training"])
def test_a_template_that_fails_is_the_users_error(case, words, tmp_path):
    tokenizer = byte_level()
    tokenizer.chat_template = TEMPLATES[case]
    engine = bs.load(model_of(len(tokenizer)), tokenizer=tokenizer)
    turns = (("system", "Answer."), ("user", "a"), ("assistant", "b"))
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]}]
    work = {
        "chat": lambda: engine.answer([Generate("Hello", 3, chat=True, turns=turns)]),
        "training": lambda: bs.finetune(engine, rows, run=tmp_path / "out", steps=1),
    }[words]
    with pytest.raises(
        bs.BasinscopeError, match=r"chat template refuses a chat of system, user.* \(.+\); allowed"
    ) as caught:
        work()
    assert "\n" not in str(caught.value)
