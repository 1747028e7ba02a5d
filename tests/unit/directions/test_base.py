"""Directions: random ones, those of others, and the words for them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import basinscope as bs
from basinscope.directions import base as directions
from basinscope.directions.words import parse
from basinscope.errors import BasinscopeError
from basinscope.weights import noise

ENGINE = SimpleNamespace(shapes={"a": torch.Size([2, 3]), "b": torch.Size([4])})


class Ones:
    """Only what the protocol asks for."""

    label = "ones"

    def __init__(self, scale=1.0):
        self.scale = scale

    def delta(self, engine, name, draw=0):
        return torch.full(engine.shapes[name], self.scale + draw)


class TestRandom:
    def test_delta_is_the_normals_of_the_parameter(self):
        delta = bs.Random(3).delta(ENGINE, "a", 5)
        assert delta.dtype == torch.float32
        assert torch.equal(delta.flatten(), bs.normals("a", 6, seed=3, draw=5))
        assert delta.shape == (2, 3)

    def test_draws_seeds_and_names_differ(self):
        tensors = [bs.Random(s).delta(ENGINE, "b", d) for s in (0, 1) for d in (0, 1)]
        assert len({tuple(t.tolist()) for t in tensors}) == 4

    def test_unknown_parameter_is_refused_with_some_of_the_known(self):
        with pytest.raises(BasinscopeError, match=r"no perturbed parameter is called 'c'.*a, b"):
            bs.Random().delta(ENGINE, "c")

    @pytest.mark.parametrize("seed", [-1, 1.0, "1", None, True])
    def test_bad_seed_is_refused(self, seed):
        with pytest.raises(BasinscopeError, match="seed="):
            bs.Random(seed)

    @pytest.mark.parametrize("draw", [-1, 1.0, None])
    def test_bad_draw_is_refused(self, draw):
        with pytest.raises(BasinscopeError, match="draw="):
            bs.Random().delta(ENGINE, "a", draw)

    def test_label_is_the_word_of_the_command_line(self):
        for seed, label in ((0, "random"), (1, "random:1"), (np.int64(7), "random:7")):
            assert bs.Random(seed).label == label
            assert parse(label) == bs.Random(seed)

    def test_identity_names_scheme_and_seed(self):
        assert bs.Random(4).identity == f"{noise.SCHEME} seed=4"

    def test_is_a_direction_and_frozen(self):
        assert isinstance(bs.Random(), bs.Direction)
        with pytest.raises(AttributeError, match="cannot assign"):
            bs.Random().seed = 3


class TestCustom:
    def test_object_with_label_and_delta_is_a_direction(self):
        assert isinstance(Ones(), bs.Direction)

    def test_identity_hashes_delta(self):
        first = directions.identity(Ones(), ENGINE, 0)
        assert first.startswith("sha256:")
        assert directions.identity(Ones(), ENGINE, 0) == first
        assert directions.identity(Ones(), ENGINE, 1) != first
        assert directions.identity(Ones(2.0), ENGINE, 0) != first

    def test_identity_tells_names_and_layouts_apart(self):
        renamed = SimpleNamespace(shapes={"a": torch.Size([2, 3]), "c": torch.Size([4])})
        assert directions.identity(Ones(), renamed, 0) != directions.identity(Ones(), ENGINE, 0)

    def test_identity_of_its_own_comes_first(self):
        own = Ones()
        own.identity = "mine/1"
        assert directions.identity(own, ENGINE, 0) == "mine/1"
        assert directions.identity(bs.Random(2), ENGINE, 0) == bs.Random(2).identity
