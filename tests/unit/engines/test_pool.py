"""The pool against the module's own forward, and what makes an engine do without it."""

import pytest
import torch
import toys

import basinscope as bs
from basinscope.engines import pool as pools
from basinscope.engines.forward import Forward
from basinscope.engines.pool import Pool, Span, probe
from basinscope.tasks import Generate

HEAD = [5, 9, 30, 31, 32, 33]
BODIES = [[40, 41, 42], [50], [60, 61, 62, 63, 64]]


@pytest.fixture(params=["gpt2", "llama"])
def forward(request):
    found = Forward(toys.tiny_model(request.param))
    with torch.inference_mode():
        found.cached = found.agrees()
        probe(found)
        yield found


def filled(forward, head=HEAD):
    past = forward.extend(None, [head])[1] if head else None
    pool = Pool(forward, past, len(head), len(BODIES), 64)
    held = forward.extend(past.repeated(len(BODIES)) if past else None, BODIES)[1]
    for r, body in enumerate(BODIES):
        pool.put(r, held, r, len(body))
    return pool


def right(forward, hidden, row):
    expected = forward.plain([row])[0, -1].float()
    return torch.allclose(forward.logits(hidden[None])[0], expected, rtol=1e-4, atol=1e-3)


class TestExtend:
    @pytest.mark.parametrize("head", [HEAD, []], ids=["head", "no head"])
    def test_gives_what_the_module_gives(self, forward, head):
        pool = filled(forward, head)
        more = [[70, 71], [80, 81, 82, 83, 84], [90]]
        spans = [Span(r, tokens, len(BODIES[r])) for r, tokens in enumerate(more)]
        hidden = pool.extend(spans)
        ends = (2, 7, 8)
        for r, end in enumerate(ends):
            assert right(forward, hidden[end - 1], head + BODIES[r] + more[r])
        hidden = pool.extend([Span(2, [11, 12], 6), Span(0, [13], 5)])  # any rows, any order
        assert right(forward, hidden[1], head + BODIES[2] + [90, 11, 12])
        assert right(forward, hidden[2], head + BODIES[0] + [70, 71, 13])

    def test_forgets_what_was_written_over(self, forward):
        pool, other = filled(forward), filled(forward)
        pool.extend([Span(0, [70, 71, 72, 73], 3)])
        found = pool.extend([Span(0, [70, 20], 3)])
        assert torch.equal(found, other.extend([Span(0, [70, 20], 3)]))
        assert right(forward, found[1], HEAD + BODIES[0] + [70, 20])

    def test_of_many_tokens_has_the_bits_of_one_after_another(self, forward):
        pool, other = filled(forward), filled(forward)
        tokens = list(range(20, 53))
        many = pool.extend([Span(1, tokens, 1)])
        one = [other.extend([Span(1, [t], 1 + k)]) for k, t in enumerate(tokens)]
        assert torch.equal(many, torch.cat(one))

    def test_leaves_the_modules_attention_as_it_was(self, forward, monkeypatch):
        pool, before = filled(forward), forward.config._attn_implementation

        def breaks(*_):
            raise RuntimeError("no kernel")

        monkeypatch.setattr(pools.kernels, "attend", breaks)
        with pytest.raises(RuntimeError, match="no kernel"):
            pool.extend([Span(0, [1], 3)])
        assert forward.config._attn_implementation == before

    def test_a_row_taken_over_again_knows_nothing_of_the_first(self, forward):
        pool = filled(forward)
        pool.extend([Span(0, list(range(20, 50)), 3)])
        held = forward.extend(pool.past.repeated(1), [[7]])[1]
        pool.put(0, held, 0, 1)
        assert right(forward, pool.extend([Span(0, [8], 1)])[0], [*HEAD, 7, 8])


def engine_of(model):
    return bs.load(model, tokenizer=toys.tiny_tokenizer())


class TestProbe:
    def test_finds_what_it_serves(self, forward):
        assert forward.pooled

    def test_of_attention_with_options_it_does_not_know(self):
        model = toys.tiny_model("llama")
        attention = model.model.layers[0].self_attn
        real = attention.forward
        attention.forward = lambda *args, **options: real(*args, softcap=20.0, **options)
        engine = engine_of(model)
        assert not engine.forward.pooled

    def test_of_a_kernel_that_errs(self, monkeypatch):
        real = pools.kernels.attend

        def wrong(*given):
            return real(*given[:-1], 2 * given[-1])

        monkeypatch.setattr(pools.kernels, "attend", wrong)
        engine = engine_of(toys.tiny_model("llama"))
        assert engine.kind == "transformers/1"
        assert len(engine.answer([Generate("Hello", 9)])[0].text) == 9

    def test_of_weights_of_several_kinds(self):
        model = toys.tiny_model("llama")
        model.model.norm.to(torch.float64)
        forward = Forward(model)
        forward.cached = True
        probe(forward)
        assert not forward.pooled
