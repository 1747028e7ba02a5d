"""Run folders of attacks: killed and run again they come to the same bits; others are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import basinscope as bs
from basinscope.attack import record as saved

MODULE = sys.modules["basinscope.attack.run"]  # the name in the package is the function


class Killed(BaseException):
    """As a signal would."""


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(40, generator=generator))
        self.v = nn.Parameter(torch.randn(7, 3, generator=generator))


H = torch.diag(torch.linspace(-1, 1, 40))


def curved(m):
    return m.w @ H @ m.w + m.v.sin().sum()


OPTIONS = {"steps": 30, "starts": 3, "radius": 2.0, "seed": 4}


@pytest.fixture(autouse=True)
def keep_always(monkeypatch):
    monkeypatch.setattr(MODULE, "KEEP_EVERY_S", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "run")


def run(folder, loss=curved, **changes):
    return bs.attack(bs.load(Toy()), loss, run=folder, **{**OPTIONS, **changes})


@pytest.mark.parametrize("after", [2, 7, 10, 11, 24, 29])
def test_resumed_bit_for_bit(tmp_path, whole, after):
    def stop(done, planned, what):
        assert planned == 30
        if done == after:
            raise Killed

    folder = tmp_path / "run"
    with pytest.raises(Killed):
        run(folder, progress=stop)
    assert not (folder / saved.DIRECTION).exists()
    steps = []
    found = run(folder, progress=lambda done, *_: steps.append(done))
    one, two = (load_file(f.direction.file) for f in (found, whole))
    assert one.keys() == two.keys() == {"w", "v"}
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert found.direction.metadata == whole.direction.metadata
    assert found.starts == whole.starts
    # what was told of a step before the one that was interrupted has been kept
    assert steps[0] == (after if after > 2 else steps[0])
    assert steps[-1] == 30
    assert not (folder / saved.STATE).exists()


def test_a_finished_attack_is_read_back_without_a_gradient(whole, tmp_path):
    def never(m):
        assert not torch.is_grad_enabled()
        return curved(m)

    never.__qualname__ = curved.__qualname__
    folder = whole.direction.file.rpartition("/")[0]
    (Path(folder) / saved.STATE).touch()  # as one does that is killed when it is done
    again = run(folder, never)
    assert again == whole
    assert not (Path(folder) / saved.STATE).exists()
    assert isinstance(again.direction, bs.Saved)


def test_provenance_stands_in_the_file(whole):
    engine = bs.load(Toy())
    story = whole.direction.metadata
    assert story["spec"]["fingerprint"] == engine.fingerprint()
    assert (story["spec"]["seed"], story["spec"]["steps"], story["spec"]["radius"]) == (4, 30, 2.0)
    assert story["spec"]["method"] == "pga"
    assert {"basinscope", "torch"} <= set(story["versions"])
    assert len(story["starts"]) == 3
    whole.direction.fit(engine)
    assert whole.direction.displacement is None, "no other model is behind it"


@pytest.mark.parametrize("changes", [{"seed": 5}, {"steps": 31}, {"radius": 1.0}, {"inside": True}])
def test_a_folder_of_another_attack(whole, changes):
    (name,) = changes
    with pytest.raises(bs.BasinscopeError, match=rf"holds another attack \({name} .*another"):
        run(whole.direction.file.rpartition("/")[0], **changes)


def test_another_model(whole):
    engine = bs.load(Toy())
    with torch.no_grad():
        engine.module.w[0] += 1
    other = bs.load(engine.module)
    with pytest.raises(bs.BasinscopeError, match=r"holds another attack \(fingerprint"):
        bs.attack(other, curved, run=whole.direction.file.rpartition("/")[0], **OPTIONS)


def test_folders_that_are_none(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(
        bs.BasinscopeError, match=r"not empty .* \(it holds 'mine.txt'\); allowed: a new folder"
    ):
        run(tmp_path)
    with pytest.raises(bs.BasinscopeError, match=r"is a file; allowed: a new folder"):
        run(tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_damage_is_told(tmp_path):
    folder = tmp_path / "run"

    class Stop(Killed):
        pass

    def stop(done, planned, what):
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        run(folder, progress=stop)
    with pytest.raises(Stop):  # at the sixth the fifth has been kept
        run(folder, progress=lambda done, *_: (_ for _ in ()).throw(Stop) if done == 6 else None)
    state = folder / saved.STATE
    good = state.read_bytes()
    state.write_bytes(good[: len(good) // 2])
    with pytest.raises(bs.BasinscopeError, match=r"state.safetensors cannot be read .*anew"):
        run(folder)
    state.unlink()
    body = json.loads((folder / saved.SPEC).read_text())
    (folder / saved.SPEC).write_text(json.dumps({**body, "hash": "0"}))
    with pytest.raises(bs.BasinscopeError, match=r"attack.json is corrupt"):
        run(folder)


def test_the_proxy_is_read_back_too(tmp_path):
    one, two = (run(tmp_path / "p", method="proxy", steps=3, radius=None) for _ in range(2))
    assert one == two
    assert one.method == "proxy"
    assert one.direction.metadata["spec"]["proxy"]["lr"] == 1e-5


def test_a_folder_that_was_moved_is_resumed(tmp_path):
    task = bs.CallableTask("near", lambda m: [float(m.w.detach().norm() < 8)] * 30, 30)
    first = run(tmp_path / "old", measure=[task])
    (tmp_path / "old").rename(tmp_path / "new")
    again = run(tmp_path / "new", measure=[task])
    assert again.collapse == first.collapse
    assert not first.collapse[0].reason
    assert first.collapse[0].direction == "attack"
