"""Fine-tuning under a guarantee: the weights stay in the certified ball, and say so."""

from __future__ import annotations

import json
import math

import pytest
import torch

import basinscope as bs
from basinscope.certify import bound_to
from basinscope.finetuning.guarantee import StayWithin
from basinscope.geometries import subspace_from_trajectory

ROWS = [{"instruction": f"add {i}", "output": f"{i + 1}!"} for i in range(20)]


@pytest.fixture(scope="module")
def task():
    """Right at theta0, and lost under noise now and then: the largest weights keep their signs."""

    def signs(module):
        flat = module.get_input_embeddings().weight.detach().flatten()[:40].float()
        return (flat * SIGNS > 0).int()

    return bs.CallableTask("signs", signs, 40)


SIGNS = torch.ones(40)


@pytest.fixture
def engine(checkpoint):
    found = bs.load(checkpoint)
    global SIGNS
    SIGNS = found.module.get_input_embeddings().weight.detach().flatten()[:40].float().sign()
    return found


@pytest.fixture
def certificate(engine, task, tmp_path):
    return bs.certify(
        engine, task, sigma=0.02, draws=60, items_per_draw=None, run=tmp_path / "cert"
    )


@pytest.fixture
def tune(engine, tmp_path):
    def run(output="out", **options):
        given = {"batch": 4, "lr": 1e-2, "steps": 6} | options
        return bs.finetune(engine, ROWS, run=tmp_path / output, **given)

    return run


def test_the_ball_is_kept_and_the_result_says_so(tune, certificate):
    free = tune("free")
    target = float(certificate.lower_bound(0.0)) - 0.05
    radius = certificate.radius(target)
    assert free.displacement > 2 * radius  # the ball binds
    kept = tune("kept", stay_within=certificate, target=target)
    assert kept.displacement == pytest.approx(radius, rel=2e-3)
    assert kept.guarantee.word == "certified"
    assert kept.guarantee.r <= radius
    assert kept.guarantee.bound >= target
    assert kept.guarantee.target == target
    assert any("noise" in text for text in kept.guarantee.does_not_cover)
    record = json.loads((kept.folder / "training.json").read_text())
    assert record["guarantee"] == kept.guarantee.model_dump(mode="json")
    assert kept.losses[-1] < kept.losses[0]
    # every checkpoint on the way as well
    for path in kept.checkpoints:
        assert certificate.verdict(path, target=target).word == "certified"


def test_the_guarantee_is_read_again_with_the_finished_run(tune, certificate):
    first = tune(stay_within=certificate, target=0.6)
    assert tune(stay_within=certificate, target=0.6).guarantee == first.guarantee


def test_a_subspace_is_not_left(tune, engine, task, tmp_path):
    pilot = tune("pilot")
    basis = subspace_from_trajectory(
        engine, [*pilot.checkpoints, pilot.folder], 2, tmp_path / "basis.safetensors"
    )
    certificate = bs.certify(
        engine, task, sigma=0.5, draws=60, items_per_draw=None, geometry=basis, run=tmp_path / "c"
    )
    kept = tune("kept", stay_within=certificate, target=0.6)
    assert math.isfinite(kept.guarantee.r)
    assert kept.guarantee.word == "certified"
    assert kept.guarantee.outside < 1e-3 * kept.displacement
    assert kept.losses[-1] < kept.losses[0]


def test_a_certificate_read_from_its_folder_serves_as_well(tune, certificate, tmp_path):
    read = bs.load_run(tmp_path / "cert")
    assert read.engine is None
    kept = tune(stay_within=read, target=0.6)
    assert kept.guarantee.bound >= 0.6


def test_a_hook_of_the_user_comes_first(tune, certificate):
    seen = []

    def push(module):
        seen.append(True)
        for p in module.parameters():
            p.add_(1.0)

    kept = tune(stay_within=certificate, target=0.6, after_step=push)
    assert len(seen) == 6
    assert kept.guarantee.word == "certified"


def test_projection_of_weights_inside_changes_nothing(engine, certificate):
    module = bs.load(engine.source, dtype="float32").module
    before = [p.detach().clone() for p in module.parameters()]
    StayWithin(bound_to(certificate, engine), 0.6)(module)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_another_target_is_another_fine_tune(tune, certificate):
    tune(stay_within=certificate, target=0.6)
    with pytest.raises(bs.BasinscopeError, match="holds another fine-tune"):
        tune(stay_within=certificate, target=0.61)


def test_a_target_out_of_reach(tune, certificate):
    with pytest.raises(bs.BasinscopeError, match=r"target=0\.9999.*below the bound at theta0"):
        tune(stay_within=certificate, target=0.9999)


def test_target_without_a_certificate(tune):
    with pytest.raises(bs.BasinscopeError, match=r"target=0\.6 without stay_within"):
        tune(target=0.6)


def test_an_adapter_has_no_ball(tune, certificate):
    with pytest.raises(bs.BasinscopeError, match=r"stay_within with method 'lora'.*full"):
        tune(stay_within=certificate, method="lora")


def test_a_certificate_of_other_weights(tune, certificate, engine, tmp_path):
    with torch.no_grad():
        engine.module.get_input_embeddings().weight[0, 0] += 1
    other = bs.load(engine.module, tokenizer=engine.tokenizer)
    with pytest.raises(bs.BasinscopeError, match="made for other weights"):
        bs.finetune(other, ROWS, run=tmp_path / "o", steps=1, stay_within=certificate)
