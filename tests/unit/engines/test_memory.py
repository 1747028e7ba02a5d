"""Memory that runs out: fewer tokens at once, the same answers, and an error when nothing helps."""

import pytest
import torch
import toys

import basinscope as bs
from basinscope.engines.forward import Forward
from basinscope.engines.memory import LEAST, fitting, out_of_memory
from basinscope.engines.pool import Pool
from basinscope.errors import BasinscopeError
from basinscope.tasks import Choices, Corpus, Generate

ON_CPU = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
ERRORS = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory."),
    "CPU": RuntimeError(ON_CPU),
    "Python": MemoryError(),
}
REQUESTS = (
    *(Choices(f"{'ab' * n}?", (" x", "yes", "no")) for n in range(40)),
    *(Corpus("abc " * n) for n in (5, 20, 50)),
    *(Generate(f"{n}?", 4) for n in range(6)),
)


def small(engine, monkeypatch, error, most):
    """Let the engine's trunk run out of memory over more tokens than ``most``."""
    trunk, seen = engine.module.base_model, []
    real = trunk.forward

    def forward(*args, input_ids, **options):
        seen.append(input_ids.numel())
        if seen[-1] > most:
            raise error
        return real(*args, input_ids=input_ids, **options)

    monkeypatch.setattr(trunk, "forward", forward)
    return seen


@pytest.fixture(params=["gpt2", "llama"])
def engine(request):
    model = toys.tiny_model(request.param, dtype=torch.bfloat16)
    return bs.load(model, tokenizer=toys.tiny_tokenizer())


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_batches_are_halved_and_answers_are_the_same(engine, monkeypatch, error):
    expected = engine.answer(REQUESTS)
    seen = small(engine, monkeypatch, error, 300)
    found = engine.answer(REQUESTS)
    assert toys.same(found, expected, torch.bfloat16)
    assert max(seen) > 300
    assert engine.token_budget == 256
    seen.clear()
    engine.answer(REQUESTS)
    assert max(seen) <= 300, "what did not fit once is not tried again"


@pytest.mark.parametrize("kind", [Pool, Forward], ids=["pool", "batches"])
def test_caches_of_what_is_written_shrink_with_the_budget(engine, monkeypatch, kind):
    engine.forward.pooled = kind is Pool
    requests = [Generate(f"{n}?", 120) for n in range(24)]
    expected, sizes, real = engine.answer(requests), [], kind.extend

    def extend(self, first, *args, **options):
        held = self if kind is Pool else first
        if held is not None:
            values = held.layers[0].values
            sizes.append(values.shape[0] * values.shape[2])
            if sizes[-1] > 2048:
                raise ERRORS["CPU"]
        return real(self, first, *args, **options)

    monkeypatch.setattr(kind, "extend", extend)
    found = engine.answer(requests)
    assert max(sizes) > 2048 >= sizes[-1]
    # texts of this length are company-free in a pool alone; test_batching has shorter ones
    assert (
        toys.same(found, expected, torch.bfloat16) if kind is Pool else len(found) == len(expected)
    )


def test_an_error_names_the_smallest_setting(engine, monkeypatch):
    small(engine, monkeypatch, ERRORS["CPU"], 3)
    with pytest.raises(BasinscopeError, match=rf"token_budget={LEAST}; .*smallest token_budget"):
        engine.answer(REQUESTS)


def test_a_smaller_setting_than_the_smallest_is_left_alone():
    def work(budget):
        raise MemoryError

    with pytest.raises(BasinscopeError, match=r"out of memory with token_budget=7;"):
        fitting(work, 7)
    assert fitting(lambda budget: -budget, 7) == (-7, 7)


@pytest.mark.parametrize(
    "error", [RuntimeError("size mismatch"), ValueError(ON_CPU), KeyError("x")], ids=repr
)
def test_other_errors_are_not_taken_for_it(engine, monkeypatch, error):
    assert not out_of_memory(error)
    seen = small(engine, monkeypatch, error, 0)
    with pytest.raises(type(error), match=r"size|memory|x"):
        engine.answer(REQUESTS)
    assert len(seen) == 1


def test_caches_are_bounded_in_bytes_and_answers_are_the_same(engine, monkeypatch):
    expected, sizes, real = engine.answer(REQUESTS), [], Forward.extend
    layers = len(engine.forward.extend(None, [[1]])[1].layers)
    slot = engine.forward.slot_bytes

    def extend(self, past, *args, **options):
        hidden, after = real(self, past, *args, **options)
        sizes.append(after.mask_BS.shape[0] * after.mask_BS.shape[1] * slot)
        return hidden, after

    most = 600 * slot
    monkeypatch.setattr("basinscope.engines.forward.CACHE_BYTES", most)
    monkeypatch.setattr(Forward, "extend", extend)
    found = engine.answer(REQUESTS)
    assert toys.same(found, expected, torch.bfloat16)
    heads, size = (2, 16) if engine.module.config.model_type == "gpt2" else (2, 8)
    assert slot == layers * 2 * heads * size * 2
    longest = max(len(r.context) for r in REQUESTS if isinstance(r, Choices)) + 64
    assert max(sizes) <= max(most // 2 + 32 * slot, longest * 2 * slot)
