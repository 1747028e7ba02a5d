"""Every family of models: the way that serves it, and that it is right there."""

import pytest
import torch
from benchmarks.families import FAMILIES, built, measured, tokenizer, way

import basinscope as bs
from basinscope.engines.alone import Alone
from basinscope.engines.probing import in_float32
from basinscope.engines.transformers import slower
from basinscope.errors import BasinscopeError
from basinscope.tasks import Choices, Corpus, Generate

QUICK = (
    "Llama", "Qwen2", "Qwen3", "Phi", "GPT-2", "GPT-NeoX", "Gemma", "StarCoder2", "StableLM",
    "OLMo 2", "SmolLM3",
)  # fmt: skip
BOTH = ("Llama, dynamic rope", "Mistral, window 24", "Phi3, long rope", "Gemma 3, window 24")
WHOLE = ("RecurrentGemma",)  # its states lie in the module
EXPECTED = (
    dict.fromkeys(FAMILIES, "cached") | dict.fromkeys(QUICK, "quick")
    | dict.fromkeys(BOTH, "quick, longer rows cached") | dict.fromkeys(WHOLE, "whole row")
)  # fmt: skip
IN_BFLOAT16 = ("GPT-J", "OPT", "Mistral, window 24", "Mamba", "Jamba", "Mixtral")
# of up to 23 tokens; in bfloat16 another expert may be chosen
NATS = {torch.float32: 1e-3, torch.bfloat16: 0.5}


def check(name, dtype):
    # shorter than the windows and the switch of rotary frequencies before, and longer behind it
    found = measured(name, dtype, prefix="It was a dark night, and cold. ", length=20)
    assert way(found.kind) == EXPECTED[name]
    assert bool(found.fallback) == (name not in QUICK)
    assert found.nats < NATS[dtype]
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_are_those_of_generate_and_likelihoods_those_of_whole_rows(name):
    found = check(name, torch.float32)
    assert found.texts == 1.0
    if name not in QUICK:  # those are asked in test_batching, on processors that can
        assert found.alone


@pytest.mark.parametrize("name", IN_BFLOAT16)
def test_answers_in_bfloat16_do_not_depend_on_company(name):
    found = check(name, torch.bfloat16)
    assert found.texts >= 0.5, "roundings may flip a text, not most"
    assert found.alone


def test_at_least_sixteen_families_are_served_by_a_cache():
    assert sum(way != "whole row" for way in EXPECTED.values()) >= 16


def alone_of(name, dtype=torch.float32):
    model = built(name, dtype)
    alone = Alone(model, model.config.get_text_config(), lambda: 0)
    with torch.inference_mode():
        alone.probe(257)
    return alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["Mamba", "Falcon-Mamba", "Jamba"])
def test_states_that_many_tokens_do_not_begin_from_are_extended_one_by_one(name, dtype):
    alone = alone_of(name, dtype)
    assert alone.steps
    assert not alone.extends


def test_a_cache_is_refused_under_other_weights():
    epoch = [0]
    model = built("OPT", torch.float32)
    alone = Alone(model, model.config, lambda: epoch[0])
    with torch.inference_mode():
        _, held = alone.read([1, 2, 3])
        epoch[0] = 1
        with pytest.raises(AssertionError, match="a cache of weights 0 under weights 1"):
            alone.read([4], held)


def test_a_forward_without_a_cache_reads_whole_rows():
    model = built("OPT", torch.float32)
    model.forward = lambda input_ids, attention_mask: None
    alone = Alone(model, model.config, lambda: 0)
    alone.probe(257)
    assert not alone.steps
    assert alone.why == "its forward takes no cache"


@pytest.mark.parametrize("name", ["Phi3, long rope", "Llama, dynamic rope"])
def test_long_rows_leave_no_trace_in_rotary_frequencies(name):
    engine = bs.load(built(name, torch.float32), tokenizer=tokenizer())
    before, short = engine.setup(), [Choices("a", (" b", " c")), Generate("short", 4)]
    expected = engine.answer(short)
    engine.answer([Choices("long " * 20, ("a", "bc")), Generate("long " * 20, 9)])
    assert engine.setup() == before
    assert engine.answer(short) == expected


@pytest.mark.parametrize("name", ["OPT", "Mamba", "RecurrentGemma"])
def test_a_corpus_is_read_in_pieces(name):
    engine = bs.load(built(name, torch.float32), tokenizer=tokenizer())
    corpus = Corpus("all that it says " * 6, window=60)
    (expected,) = engine.answer([corpus])
    engine.forward.alone.piece = 7
    (found,) = engine.answer([corpus])
    assert len(found.logliks) == len(engine.tokenizer.encode(corpus.text)) - 1
    assert found.logliks == pytest.approx(expected.logliks, abs=1e-4)
    last = engine.tokens.windows(corpus, engine.forward.context)[-1]
    row, start = [*last.body, *last.tails[0]], len(last.body)
    with torch.inference_mode():
        logp = engine.module(torch.tensor([row])).logits[0].log_softmax(-1)
    by_definition = [float(logp[i - 1, row[i]]) for i in range(start, len(row))]
    assert found.logliks[start - len(row) :] == pytest.approx(by_definition, abs=1e-4)


def test_memory_that_runs_out_at_loading_is_no_fallback(monkeypatch):
    model = built("OPT", torch.float32)

    def forward(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(model.model), "forward", forward)
    with pytest.raises(BasinscopeError, match=r"out of memory .*; .*smallest.*; .*free memory"):
        bs.load(model, tokenizer=tokenizer())


@pytest.mark.parametrize("at_once", [0, 1 << 30])
def test_in_float32_values_and_afterwards_bytes_are_the_same(monkeypatch, at_once):
    monkeypatch.setattr("basinscope.engines.probing.AT_ONCE", at_once)
    model = built("Mixtral", torch.bfloat16)
    before = {name: (p.data_ptr(), p.clone()) for name, p in model.named_parameters()}
    row = torch.tensor([[5, 9, 20, 3]])
    with torch.inference_mode():
        expected = built("Mixtral", torch.bfloat16).float()(row).logits
        with in_float32(model):
            logits = model(row).logits
            with pytest.raises(IndexError):
                model(torch.tensor([[300]]))
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected, atol=1e-5)
    for name, p in model.named_parameters():
        assert p.data_ptr() == before[name][0]
        assert torch.equal(p, before[name][1])


def test_the_way_is_said_in_words():
    assert slower("transformers-pool/1") == slower("module/1") == ""
    assert slower("transformers-pool-cached/1").endswith("with transformers' own cache")
    assert slower("transformers-whole/1").endswith("the whole row again for every token")
    said = bs.load(built("Granite", torch.float32), tokenizer=tokenizer()).fallback
    assert said == (
        "GraniteForCausalLM: rows go through the model's own forward, one row at a time, with "
        "transformers' own cache (its logits are changed behind the output head)"
    )
