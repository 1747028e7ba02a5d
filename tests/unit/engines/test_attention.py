"""Own attention against its definition and torch's, whatever a query's company."""

import functools

import pytest
import torch
import toys

import basinscope as bs
from basinscope.engines import attention
from basinscope.engines.forward import Forward
from basinscope.tasks import Choices, Corpus

exact = pytest.mark.skipif(
    not toys.sums_in_one_order(torch.bfloat16),
    reason="this CPU's own kernels do not sum in one order",
)


def tensors(rows=2, heads=6, kinds=2, length=200, slots=208, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, heads, length, size), (rows, kinds, slots, size), (rows, kinds, slots, size))
    return [torch.randn(s, generator=generator).mul_(2).bfloat16() for s in shapes]


def causal(rows, length, slots, held=0):
    seen = torch.ones(length, slots, dtype=torch.bool).tril(held)
    return seen.expand(rows, -1, -1).clone()


def attend(q, k, v, seen, held=0, **options):
    found, _ = attention.attend(None, q, k, v, None, plan=attention.plan(seen, held), **options)
    return found.transpose(1, 2)


def definition(q, k, v, seen, scale):
    group = q.shape[1] // k.shape[1]
    k, v = (t.double().repeat_interleave(group, 1) for t in (k, v))
    scores = (q.double() @ k.transpose(2, 3) * scale).masked_fill(~seen[:, None], -torch.inf)
    return scores.softmax(-1) @ v


def rmse(a, b):
    return float((a.double() - b).square().mean().sqrt())


@pytest.mark.parametrize("held", [0, 16, 160])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_is_attention_as_exactly_as_torch_has_it(held, scaling):
    q, k, v = tensors(slots=208 + held)
    seen = causal(2, 200, 208 + held, held)
    seen[1, :, 3:7] = False  # a hole in what is held
    seen[1, 5:9, 4] = False
    seen[:, torch.arange(200), torch.arange(200) + held] = True
    expected = definition(q, k, v, seen, scaling or 64**-0.5)
    torchs = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=seen[:, None], scale=scaling, enable_gqa=True
    )
    found = attend(q, k, v, seen, held, scaling=scaling)
    assert found.dtype == torch.bfloat16
    # roundings of the probabilities and of the result: no more than twice torch's own
    assert rmse(found, expected) < 2 * rmse(torchs, expected)
    assert rmse(found, expected) > 0, "the definition is not what is tested"


@exact
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bits_in_any_company_and_room(threads):
    q, k, v = tensors(rows=5, length=1100, slots=1152, seed=1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = attend(q, k, v, causal(5, 1100, 1152))
        for length, slots in ((4, 16), (12, 16), (64, 64), (68, 80), (500, 512), (1100, 1104)):
            some = attend(q[2:3, :, :length], k[2:3, :, :slots], v[2:3, :, :slots],
                          causal(1, length, slots))  # fmt: skip
            assert torch.equal(some, whole[2:3, :, :length]), (length, slots)
    finally:
        torch.set_num_threads(before)


@exact
def test_blocks_of_rows_leave_no_trace(monkeypatch):
    q, k, v = tensors(rows=5)
    whole = attend(q, k, v, causal(5, 200, 208))
    monkeypatch.setattr(attention, "SCORES", 1)
    assert torch.equal(attend(q, k, v, causal(5, 200, 208)), whole)


def test_what_is_not_seen_is_not_read():
    q, k, v = tensors()
    seen = causal(2, 200, 208)
    whole = attend(q, k, v, seen)
    k[:, :, 100:], v[:, :, 100:] = 7, -7
    assert torch.equal(attend(q, k, v, seen)[:, :, :100], whole[:, :, :100])
    assert not torch.equal(attend(q, k, v, seen), whole)


def test_leaves_torchs_setting_as_it_was():
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    q, k, v = tensors()
    attend(q, k, v, causal(2, 200, 208))
    with pytest.raises(RuntimeError, match="size"):
        attend(q, k[..., :8], v, causal(2, 200, 208))
    assert settings.fp32_precision == before


@pytest.mark.parametrize("option", ["softcap", "sliding_window", "s_aux", "anything"])
def test_refuses_what_it_does_not_know(option):
    q, k, v = tensors()
    with pytest.raises(TypeError, match=f"attention with .*{option}"):
        attend(q, k, v, causal(2, 200, 208), **{option: 30.0})
    with pytest.raises(TypeError, match="no plan"):
        attention.attend(None, q, k, v, None)


def other(kind, **options):
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
        **options,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")._from_config(config)
    for parameter in model.parameters():
        parameter.data.mul_(4.0)
    return model.bfloat16().eval()


MODELS = {
    "llama": (lambda: toys.tiny_model("llama", dtype=torch.bfloat16),
              "transformers-attention-pool/1"),
    "gpt2": (lambda: toys.tiny_model("gpt2", dtype=torch.bfloat16),
              "transformers-attention-pool/1"),
    "llama in float32": (lambda: toys.tiny_model("llama"), "transformers-pool/1"),
    # a window is settled by a kernel that knows it
    "mistral": (lambda: other("Mistral", num_key_value_heads=2, sliding_window=130),
                "transformers-pool-cached/1"),
    # position and content have scores of their own
    "bloom": (lambda: toys_bloom(), "transformers-cached/1"),
}  # fmt: skip


def toys_bloom():
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(
        vocab_size=99, hidden_size=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BloomForCausalLM(config).bfloat16().eval()


@functools.cache
def requests():
    prefix = "Q: what is it? A: nobody knows that.\n" * 3
    found = [Choices(f"{'ab' * n}?", (" x", "yes", "no"), prefix) for n in (1, 9, 30)]
    return (*found, Choices("cd" * 60, ("d", "e")), Corpus("abc " * 40, window=50))


@pytest.mark.parametrize("name", MODELS)
def test_an_engine_says_which_way_it_takes_and_agrees_with_the_plain_one(name):
    build, kind = MODELS[name]
    engine = bs.load(build(), tokenizer=toys.tiny_tokenizer())
    assert engine.kind == kind
    before = engine.module.config._attn_implementation
    found = engine.answer(requests())
    assert engine.module.config._attn_implementation == before
    engine.forward.cached = False
    for own, plain in zip(found, engine.answer(requests()), strict=True):
        a, b = (getattr(x, "loglik", getattr(x, "logliks", None)) for x in (own, plain))
        assert a == pytest.approx(b, rel=0.02, abs=0.3)


def test_a_model_that_keeps_an_attention_of_its_own_falls_back(monkeypatch):
    """It would be called by a name that is not true of it."""
    model = toys.tiny_model("llama", dtype=torch.bfloat16)
    real = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda *a, plan=None, **o: real(*a, **o))
    forward = Forward(model)
    with torch.inference_mode():
        forward.choose()
    assert forward.cached
    assert not forward.attends


def heads_and_branches(kind):
    forward = Forward(toys.tiny_model(kind, dtype=torch.bfloat16))
    forward.choose()
    assert forward.attends
    _, past = forward.extend(None, [[(5 * i + 2) % 50 for i in range(21)]])
    rows = [[(3 * i + n) % 50 for i in range(n)] for n in (3, 70, 1, 18)]
    tails = [[[4, 5], [6]], [[7, 8, 9]], [], [[], [1]]]
    return forward, past, rows, tails


@exact
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rows_beside_each_other_are_those_behind_copies_of_their_head(kind):
    with torch.inference_mode():
        forward, past, rows, tails = heads_and_branches(kind)
        keys, held = past.layers[0].keys.clone(), past.held
        beside = forward.beside(past, rows, tails)
        again = forward.beside(past, rows[::-1], tails[::-1]).flip(0)
        assert past.held == held
        assert torch.equal(past.layers[0].keys, keys), "the cache was written into"
        copies, _ = forward.extend(past.repeated(4), rows, tails)
    for b, (row, own) in enumerate(zip(rows, tails, strict=True)):
        n = len(row) + sum(map(len, own))
        assert torch.equal(beside[b, :n], copies[b, :n]), b
        assert torch.equal(beside[b, :n], again[b, :n]), b


def test_rows_beside_each_other_do_not_see_each_other():
    with torch.inference_mode():
        forward, past, rows, tails = heads_and_branches("llama")
        before = forward.beside(past, rows, tails)
        rows[1] = [9] * len(rows[1])
        after = forward.beside(past, rows, tails)
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert not torch.equal(before[1], after[1])
