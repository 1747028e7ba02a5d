"""Experts that lie in one tensor of three dimensions are treated as the matrices they are."""

import pytest
import torch
from benchmarks.families import built

import basinscope as bs
from basinscope.directions.compressed import Pruned, Quantised
from basinscope.geometries.factors import lora_xs

EXPERTS = "model.layers.1.mlp.experts.gate_up_proj"
FAMILIES = {"Mixtral": 1, "Qwen3-MoE": 1, "GPT-OSS, window 24": 0}  # dimension of the inputs


@pytest.fixture(params=FAMILIES)
def engine(request):
    found = bs.load(built(request.param, torch.float32))
    found.inputs = FAMILIES[request.param]
    return found


def test_they_are_linear_layers_with_inputs_along_one_dimension(engine):
    experts = {name for name in engine.shapes if ".experts." in name and "bias" not in name}
    assert len(experts) == 4
    assert {engine.linear[name] for name in experts} == {engine.inputs}
    assert engine.d == sum(p.numel() for p in engine.module.parameters())


def test_inputs_of_experts_are_known_by_their_sizes_where_no_module_says_so():
    engine = bs.load(built("Llama 4", torch.float32))
    kinds = {engine.linear[n] for n in engine.shapes if ".experts." in n}
    assert kinds == {0}


@pytest.mark.parametrize("direction", [Quantised(3), Quantised(4, 24, False), Pruned(0.4)], ids=str)
def test_each_expert_is_compressed_as_a_layer_of_its_own(engine, direction):
    line = bs.direction(direction)
    line.fit(engine)
    moved = line.delta(engine, EXPERTS) * line.displacement / engine.d**0.5
    for matrix, own in zip(engine.pristine(EXPERTS), moved, strict=True):
        outputs = matrix if engine.inputs else matrix.T.contiguous()
        layer = torch.nn.Sequential(torch.nn.Linear(outputs.shape[1], outputs.shape[0], bias=False))
        with torch.no_grad():
            layer[0].weight.copy_(outputs)
        alone = bs.load(layer)
        line.fit(alone)
        expected = line.delta(alone, "0.weight") * line.displacement / alone.d**0.5
        assert torch.allclose(own if engine.inputs else own.T, expected, atol=1e-6)
        assert expected.abs().max() > 0


def test_pieces_of_a_pruned_tensor_are_those_of_the_whole(engine):
    line = Pruned(0.3)
    line.fit(engine)
    parts = line.parts(engine, EXPERTS, 0, "cpu")
    n = engine.shapes[EXPERTS].numel()
    pieces = torch.cat([parts(a, min(a + 1000, n)) for a in range(0, n, 1000)])
    assert torch.equal(pieces, parts(0, n))
    assert torch.equal(engine.pristine(EXPERTS), engine.module.get_parameter(EXPERTS))


def test_they_are_perturbed_and_restored(engine):
    live = engine.module.get_parameter(EXPERTS)
    before = live.detach().clone()
    with engine.at(bs.Random(seed=0), step=0.1):
        spread = (live.detach() - before).flatten(1).std(1)
        assert spread.tolist() == pytest.approx([0.1] * len(before), rel=0.1)
    assert torch.equal(live, before)


def test_noise_of_low_rank_reaches_each_expert(engine):
    geometry = lora_xs(engine, 2, "experts")
    delta = geometry.noise(0).delta(engine, EXPERTS)
    assert [int(torch.linalg.matrix_rank(own, rtol=1e-4)) for own in delta] == [2] * len(delta)
    parts = {name: delta if name == EXPERTS else None for name in engine.shapes}

    def displacement(name):
        moved = parts[name]
        return None if moved is None else lambda a, b: moved.reshape(-1)[a:b].clone()

    distance = geometry.distance(engine, displacement)
    assert distance.inside == pytest.approx(float(delta.norm()), rel=1e-5)
    assert distance.outside < 1e-4 * distance.inside


def test_a_direction_says_what_it_leaves_out():
    engine = bs.load(built("Mixtral", torch.float32))
    line = Quantised(4)
    assert line.omits == ""
    line.fit(engine)
    left = 2 * 257 * 64 + 2 * 4 * 64  # embeddings, output head, routers
    whole = sum(p.numel() for p in engine.module.parameters() if p.dim() > 1)
    assert line.omits == (
        f"quantised:4 leaves {left:,} of {whole:,} parameters of matrices where they are "
        f"({left / whole:.0%}; the largest: model.embed_tokens.weight)"
    )
    few = bs.load(built("Mixtral", torch.float32), params="layers")
    line.fit(few)
    assert line.omits == "", "routers are less than a tenth"
