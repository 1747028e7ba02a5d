"""Text requests against the plain definition: one row, one forward pass, no cache, no batch."""

import functools

import pytest
import torch
import toys

import basinscope as bs
from basinscope.engines import generation
from basinscope.engines.alone import Alone
from basinscope.engines.forward import Forward
from basinscope.engines.transformers import TransformersEngine
from basinscope.errors import BasinscopeError
from basinscope.runs.bench import score
from basinscope.tasks import Choices, Generate, Generation, Item, Outcome, Ranking

LONG = "In the beginning there was a word, and it was long enough to be run once for all. " * 2
CHOICES = {
    "one token each": Choices("Is it?", (" ", "y", "n")),
    "many tokens": Choices("The cat sat on the", (" mat.", " table", " roof of the house")),
    "some of one token": Choices("2 + 2 =", ("4", "22", " four", "5")),
    "one continuation": Choices("Once upon", (" a time",)),
    "equal continuations": Choices("So", (" so", " so")),
    "one inside another": Choices("So", (" s", " so", " so so")),
    "no context": Choices("", ("yes", "no", "n")),
    "no context, one token": Choices("", ("y",)),
    "a prefix": Choices("What?", (" this", " that"), prefix=LONG),
    "a prefix alone": Choices("", (" this", "x"), prefix=LONG),
    "a short prefix": Choices("What?", (" this", " that"), prefix="Hm. "),
    "a long tail": Choices("a", ("b" * 90, "c" * 17, "d")),
    "a long context": Choices("ab" * 60, ("abab", "ba")),
    "the same context again": Choices("ab" * 60, ("x", "yz")),
}
PROMPTS = ["a", "Hello", "ab" * 40, LONG, "1 2 3 4", "\n", "zz top", "word " * 30]


def engine_of(model, tokenizer=None, **options):
    return bs.load(model, tokenizer=tokenizer or toys.tiny_tokenizer(), **options)


def definition(engine, request):
    """Log-likelihoods by one forward pass for each continuation, and nothing else."""
    tokenizer, context = engine.tokenizer, request.prefix + request.context
    start = [tokenizer.bos_token_id]
    own = tokenizer.encode(context) if context else []
    rows = [tokenizer.encode(context + c) for c in request.continuations]
    if not own or len({row[0] for row in rows}) > 1 or any(len(row) == 1 for row in rows):
        own, *rows = (row if row[:1] == start else start + row for row in (own, *rows))
    found = []
    for row in rows:
        first = min(len(own), len(row) - 1)
        with torch.no_grad():
            logp = engine.module(torch.tensor([row])).logits[0].float().log_softmax(-1)
        found.append(sum(float(logp[k - 1, row[k]]) for k in range(first, len(row))))
    return found


def greedy(engine, prompt, n):
    """What transformers' own generate makes of it."""
    ids = torch.tensor([engine.tokenizer.encode(prompt)])
    out = engine.module.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=1
    )
    return engine.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def near(a, b):
    return a == pytest.approx(b, abs=1e-4)


@pytest.fixture
def engine(language_model):
    engine = engine_of(language_model)
    assert engine.kind == "transformers-pool/1"
    return engine


def plain(engine):
    """The same engine on the module's own forward."""
    engine._forward.cached = False
    with torch.inference_mode():
        engine._forward.alone.probe(99)
    assert engine._forward.alone.extends
    return engine


def change_logits(monkeypatch, path, change):
    """Let a model give other logits."""
    if path == "plain":
        real_read = Alone.read

        def read(self, *args, **options):
            logits, held = real_read(self, *args, **options)
            return change(logits.clone()), held

        monkeypatch.setattr(Alone, "read", read)
    else:
        real = Forward.raw_logits
        monkeypatch.setattr(Forward, "raw_logits", lambda self, h: change(real(self, h).clone()))


class TestChoices:
    def test_with_chat_the_continuations_begin_the_models_answer(self, engine):
        turns = (("user", "One?"), ("assistant", "Two."))
        said = "[user]One?\n[assistant]Two.\n[user]"
        chats = [Choices(q, ("A", "Bc"), "So: ", chat=True, turns=turns) for q in ("Hi", "ab")]
        texts = [Choices(f"So: {q}\n[assistant]", ("A", "Bc"), said) for q in ("Hi", "ab")]
        found = [a.loglik for a in engine.answer(chats)]
        for loglik, text in zip(found, texts, strict=True):
            assert loglik == pytest.approx(definition(engine, text), abs=1e-4)
        assert engine._tokens.row(chats[0]).head == tuple(engine.tokenizer.encode(f"{said}So: "))

    @pytest.mark.parametrize("request_", CHOICES.values(), ids=CHOICES)
    def test_alone_equal_the_definition(self, engine, request_):
        (answer,) = engine.answer([request_])
        assert answer.failure == ""
        assert near(answer.loglik, definition(engine, request_))

    def test_together_equal_the_definition(self, engine):
        for request, answer in zip(
            CHOICES.values(), engine.answer([*CHOICES.values()]), strict=True
        ):
            assert near(answer.loglik, definition(engine, request))

    def test_on_the_plain_path_equal_the_definition(self, engine):
        for request, answer in zip(
            CHOICES.values(), plain(engine).answer([*CHOICES.values()]), strict=True
        ):
            assert near(answer.loglik, definition(engine, request))

    @pytest.mark.parametrize("path", ["cached", "plain"])
    def test_greedy_is_what_greedy_decoding_writes(self, engine, path):
        if path == "plain":
            engine = plain(engine)
        texts = {prompt: greedy(engine, prompt, 4) for prompt in PROMPTS}
        whole = {prompt: text for prompt, text in texts.items() if len(text) == 4}
        assert len(whole) > 3
        for prompt, text in whole.items():
            other = next(c for c in "#%&+=" if c not in text)
            asked = (text, text[:2], text[:3] + other, other + text[1:], other)
            (answer,) = engine.answer([Choices(prompt, asked)])
            assert answer.greedy == (True, True, False, False, False), prompt

    def test_under_perturbed_weights_equal_the_definition(self, engine):
        with engine.at(bs.Random(), step=0.05):
            for request, answer in zip(
                CHOICES.values(), engine.answer([*CHOICES.values()]), strict=True
            ):
                assert near(answer.loglik, definition(engine, request))

    def test_are_log_probabilities(self, engine):
        # one-token continuations over the whole alphabet: probabilities add up to at most one
        alphabet = tuple(map(chr, range(32, 127)))
        (answer,) = engine.answer([Choices("Is it", alphabet)])
        total = sum(torch.tensor(answer.loglik).exp().tolist())
        assert 0.5 < total <= 1 + 1e-5

    def test_chain(self, engine):
        # log p(ab | c) = log p(a | c) + log p(b | ca)
        both, first, second = engine.answer(
            [Choices("x", ("no",)), Choices("x", ("n",)), Choices("xn", ("o",))]
        )
        assert near(both.loglik[0], first.loglik[0] + second.loglik[0])

    def test_of_a_prefix_are_those_of_one_context(self, engine):
        split, whole = engine.answer(
            [
                Choices("What?", (" a", "bc"), prefix=LONG),
                Choices(LONG + "What?", (" a", "bc")),
            ]
        )
        assert near(split.loglik, whole.loglik)

    @pytest.mark.parametrize("continuations", [(), ("",), ("a", "")])
    def test_without_a_continuation_are_refused(self, continuations):
        with pytest.raises(BasinscopeError, match=r"continuations .* at least one, none em"):
            Choices("a", continuations)


def merging_tokenizer():
    """Reads "th", "the" and "he" as one token each, in place of three rare characters."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = toys.tiny_tokenizer().get_vocab()
    for rare, word in (("~", "th"), ("|", "the"), ("`", "he")):
        vocabulary[word] = vocabulary.pop(rare)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"the|th|he|[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def with_start(tokenizer):
    """The tokenizer, putting its own start before every text, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    assert tokenizer.encode("a")[0] == 0
    return tokenizer


class TestTokens:
    MERGES = (
        Choices("of t", ("he", "heir", "x")),  # some merge with the context's last token
        Choices("of t", ("he", "h", "hen")),  # all do
        Choices("t", ("he", "h")),  # nothing of the context is left
        Choices("t", ("h",)),
        Choices("of th", ("e", "ere")),
        Choices("wit", ("h them", "hout")),
        Choices("", ("the", "th", "he")),
        Choices("he", ("e", "x"), prefix=LONG + "t"),  # prefix and context merge
    )

    @pytest.mark.parametrize("path", ["cached", "plain"])
    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    def test_that_merge_with_the_context_are_scored_by_the_definition(self, kind, path):
        engine = engine_of(toys.tiny_model(kind), merging_tokenizer())
        if path == "plain":
            engine = plain(engine)
        together = engine.answer(self.MERGES)
        for request, answer in zip(self.MERGES, together, strict=True):
            assert near(answer.loglik, definition(engine, request)), request
            assert toys.same(engine.answer([request]), [answer]) or path == "plain"

    @pytest.mark.parametrize("path", ["cached", "plain"])
    def test_that_start_every_text_are_not_doubled(self, path):
        # "no context" once began with two of them, the second scored
        engine = engine_of(toys.tiny_model("llama"), with_start(toys.tiny_tokenizer()))
        other = engine_of(toys.tiny_model("llama"))
        if path == "plain":
            engine, other = plain(engine), plain(other)
        for name in ("no context", "no context, one token"):
            request = CHOICES[name]
            (answer,) = engine.answer([request])
            assert near(answer.loglik, other.answer([request])[0].loglik)
        for request in CHOICES.values():
            assert near(engine.answer([request])[0].loglik, definition(engine, request))

    def test_keep_their_spaces_in_generated_text(self):
        # Llama 3's tokenizer asks for "clean-up": "a , b" would come out as "a, b"
        tokenizer = toys.tiny_tokenizer()
        tokenizer.clean_up_tokenization_spaces = True
        text = "x = [1 , 2] ! 's n't ."
        engine = engine_of(toys.tiny_model(), tokenizer)
        assert engine._tokens.text(tokenizer.encode(text)) == text


class TestGenerate:
    @pytest.mark.parametrize("path", ["cached", "plain"])
    def test_equals_greedy_generation_of_transformers(self, engine, path):
        if path == "plain":
            engine = plain(engine)
        answers = engine.answer([Generate(p, 20) for p in PROMPTS])
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            assert answer.text == greedy(engine, prompt, 20)
            assert answer.failure == ""
            assert toys.same(engine.answer([Generate(prompt, 20)]), [answer])

    def test_equals_it_under_perturbed_weights(self, engine):
        with engine.at(bs.Random(), step=0.05):
            answers = engine.answer([Generate(p, 12) for p in PROMPTS])
            assert [a.text for a in answers] == [greedy(engine, p, 12) for p in PROMPTS]

    @pytest.mark.parametrize("path", ["cached", "plain"])
    def test_with_chat_uses_the_template(self, engine, path):
        if path == "plain":
            engine = plain(engine)
        prompts = ["Hi", "Who are you?", "ab" * 30]
        chats = engine.answer([Generate(p, 8, chat=True) for p in prompts])
        texts = engine.answer([Generate(f"[user]{p}\n[assistant]", 8) for p in prompts])
        assert chats == texts

    def test_with_a_chat_template_of_many_tokens_runs_its_head_apart(self, engine):
        engine.tokenizer.chat_template = (
            "System: be kind, be brief, be right.\n{% for m in messages %}{{ m['content'] }}"
            "{% endfor %} Answer:"
        )
        prompts = ["Hi", "", "Who are you?", "ab" * 30]
        chats = [Generate(p, 8, chat=True) for p in prompts]
        assert len(engine._tokens.row(chats[0]).head) >= 16
        full = [f"System: be kind, be brief, be right.\n{p} Answer:" for p in prompts]
        assert [a.text for a in engine.answer(chats)] == [greedy(engine, p, 8) for p in full]

    def test_with_chat_and_no_template_takes_the_text(self, engine):
        engine.tokenizer.chat_template = None
        chat, text = engine.answer([Generate("Hi", 8, chat="if any"), Generate("Hi", 8)])
        assert chat == text

    def test_with_chat_if_any_uses_the_template_that_there_is(self, engine):
        asked = [Generate("Hi", 8, chat="if any"), Generate("Hi", 8, chat=True)]
        assert len(set(engine.answer(asked))) == 1

    def test_turns_stand_before_the_prompt(self, engine):
        turns = (("system", "Be brief."), ("user", "One?"), ("assistant", "Two."))
        said = "[system]Be brief.\n[user]One?\n[assistant]Two.\n"
        prompts = ["Hi", "", "ab" * 30]
        chats = [Generate(p, 8, chat=True, turns=turns) for p in prompts]
        assert len(engine._tokens.row(chats[0]).head) == len(said + "[user]")
        texts = [greedy(engine, f"{said}[user]{p}\n[assistant]", 8) for p in prompts]
        assert [a.text for a in engine.answer(chats)] == texts

    def test_an_opening_is_what_the_model_goes_on_with(self, engine):
        asked = Generate("Hi", 8, chat=True, turns=(("system", "A"), ("opening", "So")))
        text = greedy(engine, "[system]A\n[user]Hi\n[assistant]So", 8)
        assert [a.text for a in engine.answer([asked])] == [text]

    @pytest.mark.parametrize(
        "request_", [Generate("Hi", 8, chat=True), Choices("Hi", ("a", "b"), chat=True)]
    )
    def test_a_chat_without_a_template_is_the_users_error(self, engine, request_):
        engine.tokenizer.chat_template = None
        with pytest.raises(bs.BasinscopeError, match=r"has no chat template.*-chat or -instruct"):
            engine.answer([request_])

    @pytest.mark.parametrize("path", ["cached", "plain"])
    def test_ends_before_a_stop_string(self, engine, path):
        if path == "plain":
            engine = plain(engine)
        (free,) = engine.answer([Generate("Hello", 12)])
        assert not free.finished
        stop = free.text[4:6]
        cut = free.text.split(stop)[0]
        (answer,) = engine.answer([Generate("Hello", 12, stop=(stop, "never seen"))])
        assert answer == Generation(cut, True)
        assert engine.answer([Generate("Hello", 12, stop=("never seen",))]) == [free]

    def test_ends_where_the_first_of_several_stops_begins(self, engine):
        (free,) = engine.answer([Generate("Hello", 12)])
        stops = (free.text[6:8], free.text[2:4])
        (answer,) = engine.answer([Generate("Hello", 12, stop=stops)])
        assert answer.finished
        assert not any(stop in answer.text for stop in stops)
        assert free.text.startswith(answer.text)

    @pytest.mark.parametrize("stop", [("",), ("a", ""), "abc"])
    def test_refuses_stops_that_every_text_contains(self, stop):
        with pytest.raises(BasinscopeError, match=r"stop=.*a tuple of non-empty strings"):
            Generate("a", 3, stop=stop)

    @pytest.mark.parametrize("path", ["cached", "plain"])
    def test_ends_as_soon_as_it_is_decided(self, engine, path):
        if path == "plain":
            engine = plain(engine)
        (free,) = engine.answer([Generate("Hello", 12)])
        seen = []

        def decided(text):
            seen.append(text)
            return len(text) >= 3

        (answer,) = engine.answer([Generate("Hello", 12, decided=decided)])
        assert answer == Generation(free.text[:3], True)
        assert seen == [free.text[:k] for k in (1, 2, 3)]

    @pytest.mark.parametrize("path", ["cached", "plain"])
    def test_of_at_most_so_many_tokens(self, engine, path):
        if path == "plain":
            engine = plain(engine)
        (free,) = engine.answer([Generate("Hello", 12)])
        answers = engine.answer([Generate("Hello", n) for n in (0, 1, 2, 7)])
        assert [a.text for a in answers] == [free.text[:n] for n in (0, 1, 2, 7)]
        assert not any(a.finished for a in answers)

    @pytest.mark.parametrize("path", ["cached", "plain"])
    @pytest.mark.parametrize("several", [False, True])
    def test_ends_at_any_end_token_of_the_model(self, language_model, path, several):
        (free,) = engine_of(language_model).answer([Generate("Hello", 12)])
        third = toys.tiny_tokenizer().encode(free.text)[3]
        ends = [1, third] if several else third
        before = language_model.generation_config.eos_token_id
        language_model.generation_config.eos_token_id = ends
        engine = engine_of(language_model)
        if path == "plain":
            engine = plain(engine)
        (answer,) = engine.answer([Generate("Hello", 12)])
        assert answer.finished
        assert answer.text == free.text.split(free.text[3])[0]
        language_model.generation_config.eos_token_id = before

    def test_of_nothing_starts_where_the_model_does(self, engine):
        (answer,) = engine.answer([Generate("", 5)])
        ids = torch.tensor([[0]])
        out = engine.module.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=1)
        assert answer.text == engine.tokenizer.decode(out[0, 1:], skip_special_tokens=True)

    def test_beside_rankings_keeps_the_order(self, engine):
        requests = [*CHOICES.values(), *(Generate(p, 4) for p in PROMPTS)]
        requests = requests[::2] + requests[1::2]
        answers = engine.answer(requests)
        kinds = [Ranking if isinstance(r, Choices) else Generation for r in requests]
        assert [type(a) for a in answers] == kinds
        assert toys.same([engine.answer([r])[0] for r in requests], answers)

    def test_of_no_requests_is_no_answer(self, engine):
        assert engine.answer([]) == []
        assert plain(engine).answer([]) == []


@pytest.mark.parametrize("path", ["cached", "plain"])
class TestTooLong:
    """A prompt that does not fit gives a failure that names both numbers, and no crash."""

    def test_for_ranking(self, engine, path):
        if path == "plain":
            engine = plain(engine)
        fits, over = Choices("a" * 250, ("b" * 6,)), Choices("a" * 250, ("b", "b" * 7))
        first, second = engine.answer([fits, over])
        assert first.failure == ""
        assert near(first.loglik, definition(engine, fits))
        assert second == Ranking((), "prompt of 257 tokens does not fit the context of 256")

    def test_for_generation(self, engine, path):
        if path == "plain":
            engine = plain(engine)
        first, second = engine.answer([Generate("a" * 250, 6), Generate("a" * 250, 7)])
        assert first.failure == ""
        assert first.text == greedy(engine, "a" * 250, 6)
        assert second == Generation(
            "", False, "prompt of 257 tokens does not fit the context of 256"
        )

    def test_a_finished_row_does_not_outgrow_the_context(self, engine, path):
        # it was carried on beside a longer text until position 256 did not exist
        if path == "plain":
            engine = plain(engine)
        requests = [Generate("a" * 250, 2), Generate("b" * 20, 200)]
        answers = engine.answer(requests)
        assert toys.same(answers, [engine.answer([r])[0] for r in requests])
        assert answers[1].text == greedy(engine, "b" * 20, 200)

    def test_is_measured_as_wrong(self, engine, path):
        if path == "plain":
            engine = plain(engine)
        outcomes = score(engine, Favours(("a" * 300, "a")))
        assert [o.correct for o in outcomes] == [False, True]
        assert outcomes[0].label == "prompt of 302 tokens does not fit the context of 256"


class Favours:
    """Right whatever the answer: only a failure can make it wrong."""

    name, chance, scoring = "favours", 0.0, "1"

    def __init__(self, contexts, *, write=False):
        self.items = tuple(
            Item(str(i), (Generate(c, 3) if write else Choices(c, ("x", "yz")),))
            for i, c in enumerate(contexts)
        )

    def oracle(self, item, answers):
        return Outcome(True, "right")


@pytest.mark.parametrize("path", ["cached", "plain"])
class TestNonFinite:
    def test_logits_are_a_failure_and_wrong(self, engine, path):
        if path == "plain":
            engine = plain(engine)
        requests = [Choices("a", ("b", "cd")), Generate("a", 5)]
        with engine.at(bs.Random(), step=3e38):
            ranking, generation = engine.answer(requests)
            outcomes = score(engine, Favours(["a", "b"])) + score(
                engine, Favours(["a", "b"], write=True)
            )
        assert ranking.failure == generation.failure == "non-finite logits"
        assert generation == Generation("", False, "non-finite logits")
        assert [(o.correct, o.label) for o in outcomes] == [(False, "non-finite logits")] * 4
        assert not any(a.failure for a in engine.answer(requests))

    def test_logits_of_one_row_leave_the_others_alone(self, language_model, path):
        engine = engine_of(language_model)
        if path == "plain":
            engine = plain(engine)
        contexts = ["aaa", "aab", "zzz"]
        requests = [
            *(Choices(c, ("x", "yz")) for c in contexts),
            *(Generate(c, 4) for c in contexts),
        ]
        good = engine.answer(requests)
        row = language_model.get_input_embeddings().weight[engine.tokenizer.encode("b")[0]]
        before = row.detach().clone()
        with torch.no_grad():
            row.fill_(float("inf"))
        bad = engine.answer(requests)
        with torch.no_grad():
            row.copy_(before)
        # tied embeddings: the head's logit of "b" is spoilt for every row of a text, so only the
        # answers to "aab" are lost in the trunk; none of the lost ones may pass for an answer
        assert bad[1].failure == bad[4].failure == "non-finite logits"
        assert all(a.failure for a in bad[3:])
        assert not any(a.failure for a in good)

    def test_infinity_is_a_failure_like_nan(self, engine, path, monkeypatch):
        # -inf for one token is a number to log_softmax, and once was an answer
        if path == "plain":
            engine = plain(engine)
        token = engine.tokenizer.encode("x")[0]

        def spoilt(logits):
            logits[..., token] = -float("inf")
            return logits

        change_logits(monkeypatch, path, spoilt)
        with_x, without, text = engine.answer(
            [Choices("a", ("x", "y")), Choices("a", ("y", "z")), Generate("a", 3)]
        )
        assert with_x.failure == text.failure == "non-finite logits"
        assert without.failure == ""

    def test_sums_that_overflow_are_no_failure(self, engine, path, monkeypatch):
        # models put the least float32 at tokens that must not come; two of them sum to -inf
        if path == "plain":
            engine = plain(engine)
        (free,) = engine.answer([Generate("a", 5)])
        unused = [i for i in range(3, 99) if chr(29 + i) not in free.text][:9]

        def masked(logits):
            logits[..., unused] = torch.finfo(torch.float32).min
            return logits

        change_logits(monkeypatch, path, masked)
        assert engine.answer([Generate("a", 5)]) == [free]


class TestDefect6:
    """Key-value and prefix caches outlived a change of the weights."""

    REQUESTS = (
        *CHOICES.values(),
        *(Choices(f"item {i}?", (" yes", " no"), prefix=LONG) for i in range(3)),
        *(Generate(p, 6) for p in PROMPTS),
        *(Generate(p, 6, chat=True) for p in PROMPTS),
    )

    def test_answers_follow_the_weights(self, engine):
        base = engine.answer(self.REQUESTS)
        seen = [base]
        for draw in range(3):
            with engine.at(bs.Random(), step=0.1, draw=draw):
                seen.append(engine.answer(self.REQUESTS))
            assert engine.answer(self.REQUESTS) == base
        for i in range(len(CHOICES)):  # likelihoods differ wherever the weights do
            assert len({answers[i].loglik for answers in seen}) == 4

    @pytest.mark.parametrize("kind", ["gpt2", "llama"])
    def test_answers_are_those_of_a_fresh_engine(self, kind):
        used = engine_of(toys.tiny_model(kind))
        used.answer(self.REQUESTS)
        with used.at(bs.Random(), step=0.2, draw=7):
            used.answer(self.REQUESTS)
        with used.at(bs.Random(), step=0.1, draw=3):
            found = used.answer(self.REQUESTS)
        fresh = engine_of(toys.tiny_model(kind))
        with fresh.at(bs.Random(), step=0.1, draw=3):
            assert fresh.answer(self.REQUESTS) == found

    @pytest.mark.parametrize("kind", ["ranking", "text"])
    def test_a_cache_that_outlives_its_weights_is_caught(self, engine, monkeypatch, kind):
        """Planted: the pass over a prefix is kept under its tokens, without the weights."""
        kept, real = {}, Forward.extend

        def extend(self, past, rows, *args, **options):
            if past is not None or len(rows) > 1:
                return real(self, past, rows, *args, **options)
            key = tuple(rows[0])
            if key not in kept:
                kept[key] = real(self, past, rows, *args, **options)
            return kept[key]

        monkeypatch.setattr(Forward, "extend", extend)
        request = CHOICES["a prefix"] if kind == "ranking" else Generate("Hm", 3, prefix=LONG)
        requests = [request, request]
        found = engine.answer(requests)
        assert len(kept) == 1
        assert engine.answer(requests) == found, "under the same weights a cache is right"
        with engine.at(bs.Random(), step=0.1), pytest.raises(AssertionError, match="a cache of"):
            engine.answer(requests)
        # back at theta0 the weights are those of the cache again, but who would have known
        with pytest.raises(AssertionError, match="a cache of weights 0 under weights 2"):
            engine.answer(requests)

    def test_a_pool_that_outlives_its_weights_is_caught(self, engine, monkeypatch):
        """Planted: the pool of the texts before is written on."""
        made = []

        class Kept(generation.Pool):
            def __new__(cls, *_):
                return made[0] if made else super().__new__(cls)

            def __init__(self, *given):
                if not made:
                    super().__init__(*given)
                made[:] = [self]

        monkeypatch.setattr(generation, "Pool", Kept)
        requests = [Generate("Hm", 6)]
        with torch.inference_mode():
            found = engine.answer(requests)
            assert engine.answer(requests) == found, "under the same weights a pool is right"
            with engine.at(bs.Random(), step=0.1), pytest.raises(AssertionError, match="a pool of"):
                engine.answer(requests)

    def test_answers_follow_weights_written_inside(self, engine):
        request = CHOICES["a prefix"]
        with engine.at(bs.Random(), step=0.1), torch.no_grad():
            first = engine.answer([request])
            for parameter in engine.module.parameters():
                parameter.mul_(0.5)
            (second,) = engine.answer([request])
            assert near(second.loglik, definition(engine, request))
        assert second != first[0]


class TestTrainingMode:
    def test_somebody_else_s_changes_no_answer_and_stays(self):
        from transformers import GPT2LMHeadModel

        config = toys.tiny_model().config
        config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.5
        engine = engine_of(strong(GPT2LMHeadModel, config))
        requests = (*CHOICES.values(), *(Generate(p, 9) for p in PROMPTS[:3]))
        expected, state = engine.answer(requests), torch.get_rng_state()
        engine.module.train()
        engine.module.lm_head.eval()
        modes = [part.training for part in engine.module.modules()]
        assert engine.answer(requests) == expected
        assert [part.training for part in engine.module.modules()] == modes
        assert torch.equal(torch.get_rng_state(), state), "the global generator is nobody's"


class TestDefect4:
    """Prompts grew from item to item, by an in-place += on a shared prefix."""

    @pytest.mark.parametrize("path", ["cached", "plain"])
    def test_the_hundredth_item_reads_like_the_first(self, engine, path, monkeypatch):
        if path == "plain":
            engine = plain(engine)
        lengths = []
        for name in ("extend", "plain"):
            real = getattr(Forward, name)

            def spy(self, *args, _real=real, **options):
                rows = args[-1] if len(args) == 1 else args[1]
                lengths.append(max(map(len, rows)))
                return _real(self, *args, **options)

            monkeypatch.setattr(Forward, name, spy)
        request = Choices("same", (" x", "y"), prefix=LONG)
        answers, passes = [], []
        for _ in range(5):
            lengths.clear()
            answers += engine.answer([request, Generate(LONG, 2)])
            passes.append(tuple(lengths))
        assert len(set(passes)) == 1
        assert set(answers[2::2]) == {answers[0]}
        assert set(answers[3::2]) == {answers[1]}

    def test_requests_leave_the_tokens_of_others_alone(self, engine):
        requests = [Choices(f"{i}", (" x", "y"), prefix=LONG) for i in range(30)]
        rows = [engine._tokens.row(r) for r in requests]
        engine.answer(requests)
        assert [engine._tokens.row(r) for r in requests] == rows
        assert len({len(r.head) + len(r.body) for r in rows[:10]}) == 1
        assert len({r.head for r in rows}) == 1


def mistral(**options):
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=0, eos_token_id=1, **options,
    )  # fmt: skip
    return strong(MistralForCausalLM, config)


def strong(kind, config, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind._from_config(config, **options)
    for parameter in model.parameters():
        parameter.data.mul_(4.0)
    return model.eval()


class TestOtherModels:
    """What the cache cannot do is done by the module's own forward: always right."""

    REQUESTS = (*CHOICES.values(),)

    def right(self, engine):
        for request, answer in zip(self.REQUESTS, engine.answer(self.REQUESTS), strict=True):
            assert near(answer.loglik, definition(engine, request))
        texts = engine.answer([Generate(p, 10) for p in PROMPTS])
        assert [t.text for t in texts] == [greedy(engine, p, 10) for p in PROMPTS]

    @pytest.mark.parametrize("window", [8, 40, 130, 200, 256])
    def test_sliding_window(self, window):
        engine = engine_of(mistral(sliding_window=window))
        assert engine._forward.fits_cache(window) == engine._forward.cached
        assert not engine._forward.fits_cache(window + 1)
        self.right(engine)

    def test_softcapped_logits(self):
        from transformers import Gemma2Config, Gemma2ForCausalLM

        config = Gemma2Config(
            vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=40,
            max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
            final_logit_softcapping=3.0,
        )  # fmt: skip
        engine = engine_of(strong(Gemma2ForCausalLM, config))
        assert engine.kind == "transformers-cached/1"
        self.right(engine)

    @pytest.mark.parametrize("name", ["final_logit_softcapping", "logit_scale", "logits_scaling"])
    def test_settings_behind_the_head(self, name):
        model = toys.tiny_model("llama")
        setattr(model.config, name, 1.0)
        assert engine_of(model).kind == "transformers-pool/1"
        setattr(model.config, name, 30.0)
        assert engine_of(model).kind == "transformers-cached/1"

    def test_logits_changed_behind_the_head_by_no_known_setting(self):
        model = toys.tiny_model("llama")
        real = model.forward

        @functools.wraps(real)
        def forward(*args, **options):
            out = real(*args, **options)
            out.logits = 1.05 * out.logits
            return out

        model.forward = forward
        assert engine_of(model).kind == "transformers-cached/1"

    def test_attention_that_adds_its_mask(self):
        # a boolean mask is no mask there
        from transformers import GPT2LMHeadModel

        model = strong(GPT2LMHeadModel, toys.tiny_model().config, attn_implementation="eager")
        engine = engine_of(model)
        assert engine.kind == "transformers-cached/1"
        self.right(engine)

    def test_state_that_padding_would_spoil(self):
        from transformers import MambaConfig, MambaForCausalLM

        config = MambaConfig(
            vocab_size=99, hidden_size=16, num_hidden_layers=1, state_size=4,
            bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        engine = engine_of(strong(MambaForCausalLM, config))
        assert engine.kind == "transformers-cached/1"
        requests = self.REQUESTS[:4]
        for request, answer in zip(requests, engine.answer(requests), strict=True):
            assert near(answer.loglik, definition(engine, request))

    def test_settings_of_the_text_part_count(self):
        # a model of text and pictures: window and context stand in config.text_config
        from transformers import LlamaConfig, PretrainedConfig

        class Both(PretrainedConfig):
            def get_text_config(self, *_, **__):
                return LlamaConfig(max_position_embeddings=77, sliding_window=300)

        model = toys.tiny_model("llama")
        model.config = Both()
        forward = Forward(model)
        assert forward.context == 77
        forward.cached = True
        assert forward.fits_cache(300)
        assert not forward.fits_cache(301)

    def test_without_a_trunk_of_its_own(self):
        class Bare(torch.nn.Module):
            def __init__(self, model):
                super().__init__()
                self.inner = model

            def forward(self, **options):
                return self.inner(**options)

        engine = engine_of(Bare(toys.tiny_model()))
        assert engine.kind == "transformers-whole/1"
        requests = [CHOICES["many tokens"], Generate("Who?", 5)]
        ranking, text = engine.answer(requests)
        expected = engine_of(toys.tiny_model()).answer(requests)
        assert near(ranking.loglik, expected[0].loglik)
        assert text == expected[1]


def test_a_plain_module_refuses_text_with_the_documented_error():
    engine = bs.load(toys.tiny_model())
    assert not isinstance(engine, TransformersEngine)
    with pytest.raises(BasinscopeError, match=r"no tokenizer; .*a CallableTask, .*tokenizer="):
        engine.answer([Choices("a", ("b",))])
