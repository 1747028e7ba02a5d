"""Directions: random ones, those of others, and what follows from the little that they say."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import basinscope as bs
from basinscope.directions import Direction
from basinscope.directions.words import direction
from basinscope.errors import BasinscopeError
from basinscope.weights import noise
from basinscope.weights.parts import CHUNK

ENGINE = SimpleNamespace(shapes={"a": torch.Size([2, 3]), "b": torch.Size([4])}, d=10)


class Ones(Direction):
    """Only what a direction must have."""

    label = "ones"

    def __init__(self, scale=1.0):
        self.scale = scale

    def delta(self, engine, name, draw=0):
        return torch.full(engine.shapes[name], self.scale + draw)


class Counted(Direction):
    """In parts alone; one of three parameters does not move; of a model at distance 6."""

    label, draws, displacement = "counted", 2, 6.0

    def parts(self, engine, name, draw, device):
        self.check_draw(draw)
        return None if name == "b" else lambda a, b: torch.arange(a, b, device=device) + 0.5 + draw


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
        with pytest.raises(BasinscopeError, match=r"no perturbed parameter called 'c'.*a, b"):
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
            assert direction(label) == bs.Random(seed)

    def test_identity_names_scheme_and_seed(self):
        assert bs.Random(4).identity(ENGINE) == f"{noise.SCHEME} seed=4"

    def test_is_a_direction_and_frozen(self):
        assert isinstance(bs.Random(), Direction)
        with pytest.raises(AttributeError, match="cannot assign"):
            bs.Random().seed = 3

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_fused_perturbation_has_the_bits_of_the_generic_one(self, dtype):
        n = CHUNK + 5
        theta = torch.linspace(-2, 2, n).to(dtype)
        engine = SimpleNamespace(shapes={"w": theta.shape}, pristine=lambda name: theta)
        fused, generic = torch.empty_like(theta), torch.empty_like(theta)
        bs.Random(2).perturb(engine, "w", 1, -0.3, fused)
        Direction.perturb(bs.Random(2), engine, "w", 1, -0.3, generic)
        assert torch.equal(fused, generic)
        assert not torch.equal(fused, theta)


class TestDefaults:
    def test_of_a_direction_with_a_label_and_a_delta(self):
        ones = Ones()
        assert ones.draws is None
        assert ones.displacement is None
        assert ones.draws_among(7) == 7
        assert ones.sits_at(ENGINE) is None
        assert ones.fit(ENGINE) is None
        ones.check_draw(10**9)

    def test_parts_follow_from_delta(self):
        parts = Ones(2.0).parts(ENGINE, "a", 1, "cpu")
        assert parts(1, 4).tolist() == [3.0, 3.0, 3.0]
        parts(0, 6).zero_()
        assert parts(0, 6).tolist() == [3.0] * 6, "in memory that the caller may write to"

    def test_delta_follows_from_parts(self):
        assert Counted().delta(ENGINE, "a", 1).tolist() == [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]
        assert Counted().delta(ENGINE, "b").tolist() == [0.0] * 4
        assert Counted().delta(ENGINE, "a").dtype == torch.float32

    def test_delta_of_another_shape_is_refused(self):
        class Turned(Ones):
            def delta(self, engine, name, draw=0):
                return super().delta(engine, name, draw).T

        with pytest.raises(BasinscopeError, match=r"'ones' gives a the shape \(3, 2\);.*\(2, 3\)"):
            Turned().parts(ENGINE, "a", 0, "cpu")

    def test_a_class_with_neither_is_refused_when_it_is_written(self):
        with pytest.raises(BasinscopeError, match=r"Lame, a direction that has neither"):

            class Lame(Direction):
                label = "lame"

                def deltas(self, engine, name, draw=0):
                    return torch.ones(3)

    def test_one_without_a_label_is_refused_when_it_is_made(self):
        class Nameless(Direction):
            lable = "x"

            def delta(self, engine, name, draw=0):
                return torch.ones(3)

        with pytest.raises(TypeError, match="abstract method"):
            Nameless()


class TestDraws:
    def test_no_more_than_there_are(self):
        assert [Counted().draws_among(n) for n in (1, 2, 3)] == [1, 2, 2]

    @pytest.mark.parametrize("draw", [-1, 2])
    def test_of_another_number_are_refused(self, draw):
        with pytest.raises(BasinscopeError, match=rf"draw={draw} of counted; allowed: 0 to 1"):
            Counted().delta(ENGINE, "a", draw)

    def test_are_refused_before_the_weights_move(self):
        class Once(Ones):
            draws = 1

        engine = bs.load(torch.nn.Linear(2, 2))
        epoch = engine.epoch
        with (
            pytest.raises(BasinscopeError, match="draw=1 of ones"),
            engine.at(Once(), step=1, draw=1),
        ):
            raise AssertionError("the body must not run")
        assert engine.epoch == epoch


class TestDisplacement:
    def test_places_the_other_model_on_the_slice(self):
        assert Counted().sits_at(ENGINE) == pytest.approx(6.0 / math.sqrt(10))

    def test_in_parts_has_the_length_of_the_way_to_it(self):
        moves = Counted().as_displacement(ENGINE)
        expected = Counted().delta(ENGINE, "a").flatten() * (6.0 / math.sqrt(10))
        assert torch.equal(moves("a")(0, 6), expected)
        assert moves("b") is None

    def test_there_is_none_without_another_model(self):
        with pytest.raises(BasinscopeError, match=r"'ones' has no displacement; allowed: one that"):
            Ones().as_displacement(ENGINE)


class TestIdentity:
    def test_hashes_delta(self):
        first = Ones().identity(ENGINE)
        assert first.startswith("sha256:")
        assert Ones().identity(ENGINE, 0) == first
        assert Ones().identity(ENGINE, 1) != first
        assert Ones(2.0).identity(ENGINE) != first

    def test_tells_names_and_layouts_apart(self):
        renamed = SimpleNamespace(shapes={"a": torch.Size([2, 3]), "c": torch.Size([4])})
        assert Ones().identity(renamed) != Ones().identity(ENGINE)

    def test_is_the_same_from_parts_as_from_delta(self):
        class Same(Direction):
            label = "same"

            def delta(self, engine, name, draw=0):
                return Counted().delta(engine, name, draw)

        assert Same().identity(ENGINE) == Counted().identity(ENGINE)


class Duck:
    """What was a direction while they were not asked for their class."""

    label, draws = "duck", 1

    def delta(self, engine, name, draw=0):
        return torch.ones(engine.shapes[name])


@pytest.mark.parametrize("given", [Duck(), 3, None, {"w": torch.ones(3)}, bs.Random])
class TestOtherObjects:
    def test_are_refused_with_what_is_allowed(self, given):
        with pytest.raises(
            BasinscopeError,
            match=r"^a direction of type \w+; allowed: a word.*Random.*a subclass of .*Direction",
        ):
            direction(given)

    def test_are_refused_by_the_engine(self, given):
        engine = bs.load(torch.nn.Linear(2, 2))
        with pytest.raises(BasinscopeError, match="a direction of type"), engine.at(given, step=1):
            raise AssertionError("the body must not run")
        assert torch.equal(engine.module.weight, engine.pristine("weight"))
