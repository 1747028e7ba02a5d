"""No device is forgotten: every entry point with its model on a card, as `pretended` has it."""

from __future__ import annotations

import functools
from unittest import mock

import accelerate
import pretended
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from toys import tiny_model, tiny_tokenizer
from transformers import MixtralConfig, MixtralForCausalLM, TrainingArguments

import basinscope as bs
from basinscope.attack import ascent
from basinscope.engines.base import Engine
from basinscope.errors import BasinscopeError
from basinscope.finetuning.run import _displacement
from basinscope.weights import noise


def mixture():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = MixtralConfig(
            vocab_size=99, max_position_embeddings=256, hidden_size=32, intermediate_size=64,
            num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
            num_experts_per_tok=2, bos_token_id=0, eos_token_id=1,
            experts_implementation="eager",  # the other asks the card what it is
        )  # fmt: skip
        return MixtralForCausalLM(config).eval()


SHAPES = {"gpt2": tiny_model, "llama": lambda: tiny_model("llama"), "moe": mixture}


@pytest.fixture(params=SHAPES)
def engine(request):
    with pretended.card():
        module = pretended.to_card(SHAPES[request.param]())
        yield bs.load(module, tokenizer=tiny_tokenizer())


def on_cpu(engine):
    """The same weights, where they have always been."""
    kind = {"GPT2LMHeadModel": "gpt2", "LlamaForCausalLM": "llama"}.get(engine.source, "moe")
    return bs.load(SHAPES[kind](), tokenizer=tiny_tokenizer())


class TestTheCardThatIsPretended:
    """It refuses what torch refuses, and nothing else, as fake tensors tell without values."""

    REFUSED = (
        lambda here, there: here + there,
        lambda here, there: there.add_(here),
        lambda here, there: torch.stack([here, there]),
        lambda here, there: there.addcmul_(there, here),
        lambda here, there: torch.nn.functional.linear(here[None], there[None]),
        lambda here, there: setattr(torch.nn.Parameter(there), "grad", here),
    )
    TAKEN = (
        lambda here, there: there * here.sum(),
        lambda here, there: there + here.to(there.device),
        lambda here, there: torch.zeros_like(there) + there.new_ones(3),
        lambda here, there: torch.arange(3, device="cuda") + there,
    )

    @pytest.mark.parametrize("call", REFUSED)
    @pytest.mark.parametrize("mode", [pretended.card, FakeTensorMode])
    def test_refuses(self, mode, call):
        with mode(), pytest.raises(RuntimeError, match="device"):
            call(torch.ones(3), torch.ones(3, device="cuda"))

    @pytest.mark.parametrize("call", TAKEN)
    @pytest.mark.parametrize("mode", [pretended.card, FakeTensorMode])
    def test_takes(self, mode, call):
        with mode():
            assert call(torch.ones(3), torch.ones(3, device="cuda")).device.type == "cuda"

    def test_is_no_memory_of_numpy(self):
        with pretended.card(), pytest.raises(TypeError, match="cuda"):
            torch.ones(3, device="cuda").numpy()


def test_noise_made_on_the_card_has_the_same_bits():
    with pretended.card():
        there = noise.normals("w", 9, start=3, device="cuda")
        assert there.device.type == "cuda"
        assert torch.equal(there.cpu(), noise.normals("w", 9, start=3))


def test_at_moves_the_weights_as_on_the_cpu(engine):
    before = engine.fingerprint()
    for direction in ("random", "quantised:4"):
        with engine.at(direction, step=0.01), on_cpu(engine).at(direction, step=0.01) as other:
            assert engine.fingerprint() == other.fingerprint() != before
    assert engine.fingerprint() == before == on_cpu(engine).fingerprint()


def test_a_landscape_of_choices_and_texts(engine):
    tasks = [bs.tasks(word, limit=2)[0] for word in ("basic", "safety")]
    land = bs.landscape(engine, tasks, directions=["random"], steps=[0.01], draws=1)
    assert len(land.to_pandas()) == 4


def test_a_run_of_the_cpu_is_not_continued_on_a_card(engine, tmp_path):
    assert engine.kind == "transformers-cuda/1"
    assert "cuda" not in on_cpu(engine).kind
    (task,) = bs.tasks("basic", limit=1)
    options = {"directions": ["random"], "steps": [0.01], "draws": 1, "run": tmp_path / "run"}
    bs.landscape(on_cpu(engine), task, **options)
    with pytest.raises(
        BasinscopeError, match=r"another run \(engine transformers.* -> transformers-cuda/1\)"
    ):
        bs.landscape(engine, task, **options)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_a_surface_of_two_kinds_of_direction(engine, orthogonal):
    (task,) = bs.tasks("basic", limit=1)
    grid = bs.surface(
        engine, task, "random", "quantised:4", xs=[0.01], ys=[0.01], orthogonal=orthogonal
    )
    assert len(grid.to_pandas()) == 1


@pytest.mark.parametrize("method", ["pga", "proxy"])
def test_an_attack_finds_what_it_finds_on_the_cpu(engine, method):
    def loss(module):
        logits = module(input_ids=torch.arange(6, device=engine_of.device)[None]).logits
        return logits[..., 3].mean()

    options = {"steps": 3, "radius": 0.1, "starts": 2, "method": method}
    traces = []
    for engine_of in (engine, on_cpu(engine)):
        traces.append([start.trace for start in bs.attack(engine_of, loss, **options).starts])
    assert traces[0] == traces[1]


def test_an_attack_on_a_task_resumes_on_the_card(engine, tmp_path):
    options = {"steps": 3, "starts": 2, "radius": 0.1, "limit": 2, "compute": "float32"}
    found = bs.attack(engine, "basic", **options)
    progress = mock.Mock(side_effect=[None, None, KeyboardInterrupt])
    with mock.patch("basinscope.attack.run.KEEP_EVERY_S", 0.0), pytest.raises(KeyboardInterrupt):
        bs.attack(engine, "basic", run=tmp_path / "run", progress=progress, **options)
    resumed = bs.attack(engine, "basic", run=tmp_path / "run", **options)
    assert resumed.starts == found.starts


def test_gradients_of_parameters_on_two_devices():
    """As with a ``device_map``: one flat vector serves them all."""
    with pretended.card():
        module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        pretended.to_card(module[0])
        targets = {n: torch.zeros_like(p, device="cuda") for n, p in module.named_parameters()}
        with ascent._grads(Engine(module), targets):
            module[1](module[0](torch.ones(2, device="cuda")).cpu()).sum().backward()
        assert all(bool(target.any()) for target in targets.values())


def test_a_certificate(engine):
    (task,) = bs.tasks("basic", limit=2)
    found = bs.certify(engine, task, sigma=0.01, draws=4, items_per_draw=2, seed=0)
    assert 0 <= found.p_lower < 1


@pytest.mark.parametrize("options", [{}, {"cast": torch.bfloat16}, {"relative": "model"}], ids=str)
def test_a_step_of_go(engine, options):
    module = engine.module
    opt = bs.GaussianAugmented(module.parameters(), sigma=0.01, names=module, **options)
    ids = torch.arange(6, device="cuda")[None]
    before = engine.fingerprint()
    with opt.perturbed():
        module(input_ids=ids, labels=ids).loss.backward()
    assert engine.fingerprint() == before
    opt.step()
    assert engine.fingerprint() != before


def test_a_fine_tune(engine, tmp_path):
    """The Trainer asks accelerate for its device, which asks the machine."""
    made = TrainingArguments._setup_devices.func
    ours = functools.cached_property(lambda arguments: (made(arguments), pretended.CARD)[1])
    ours.__set_name__(TrainingArguments, "_setup_devices")
    with (
        mock.patch.object(TrainingArguments, "_setup_devices", ours),
        mock.patch.object(accelerate.Accelerator, "device", pretended.CARD),
    ):
        tuned = bs.finetune(
            engine, [{"instruction": f"add {i}", "output": "!"} for i in range(4)], steps=2,
            batch=2, compute="float32", optimizer=(torch.optim.AdamW, {}), run=tmp_path / "run",
        )  # fmt: skip
    assert tuned.displacement > 0
    assert _displacement(engine, on_cpu(engine).module) == 0  # trained elsewhere
