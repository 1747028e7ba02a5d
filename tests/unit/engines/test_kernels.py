"""Attention over a pool against its definition in float64, and bit for bit against itself."""

import numpy as np
import pytest
import torch

from basinscope.engines.kernels import attend, greatest, store

SHAPES = [(3, 3, 64, 0), (2, 2, 8, 37), (2, 1, 12, 64), (1, 4, 16, 70)]
DTYPES = [torch.float32, torch.bfloat16]


def pool(dtype, groups, per, size, start, *, rows=4, tokens=5, slots=192, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g).to(dtype)

    query = normal(rows * tokens, groups * per, size)
    keys, values = normal(rows, groups, size, slots), normal(rows, groups, slots, size)
    shared = (normal(groups, size, start), normal(groups, start, size)) if start else None
    places = [0, 3, 60, 130][:rows]  # in the first block, across its end, in the third
    spans = [(r, r * tokens, (r + 1) * tokens, p) for r, p in enumerate(places)]
    return query, keys, values, shared, np.array(spans, np.int64)


def definition(query, keys, values, shared, spans, scaling):
    out = torch.zeros_like(query, dtype=torch.float64)
    per = query.shape[1] // keys.shape[1]
    for r, first, end, place in spans.tolist():
        for n in range(first, end):
            k = keys[r].transpose(1, 2)[:, : place + n - first + 1]
            v = values[r][:, : place + n - first + 1]
            if shared is not None:
                k = torch.cat([shared[0].transpose(1, 2), k], 1)
                v = torch.cat([shared[1], v], 1)
            k, v = (t.double().repeat_interleave(per, 0) for t in (k, v))
            weights = (k @ query[n].double()[:, :, None] * scaling).softmax(1)
            out[n] = (weights * v).sum(1)
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
class TestAttend:
    def test_equals_the_definition(self, shape, dtype):
        given = pool(dtype, *shape)
        found, expected = attend(*given, 0.3).double(), definition(*given, 0.3)
        # bfloat16 rounds the result to 8 bits, and nothing before it
        tolerance = 1e-5 if dtype == torch.float32 else 2.0**-8
        assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance)

    def test_of_one_token_has_the_bits_of_that_among_many(self, shape, dtype):
        query, keys, values, shared, spans = pool(dtype, *shape)
        whole = attend(query, keys, values, shared, spans, 0.3)
        for r, first, end, place in spans.tolist():
            for n in range(first, end):
                alone = np.array([(r, 0, 1, place + n - first)], np.int64)
                found = attend(query[n : n + 1], keys, values, shared, alone, 0.3)
                assert torch.equal(found[0], whole[n])

    def test_does_not_depend_on_threads(self, shape, dtype):
        given, before = pool(dtype, *shape), torch.get_num_threads()
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            try:
                found.append(attend(*given, 0.3))
            finally:
                torch.set_num_threads(before)
        assert torch.equal(*found)

    def test_does_not_see_what_lies_behind(self, shape, dtype):
        query, keys, values, shared, spans = pool(dtype, *shape)
        whole = attend(query, keys, values, shared, spans, 0.3)
        for r, first, end, place in spans.tolist():
            keys[r, :, :, place + end - first :] = float("nan")
            values[r, :, place + end - first :] = float("nan")
        assert torch.equal(attend(query, keys, values, shared, spans, 0.3), whole)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_of_what_is_not_finite_is_not_finite_in_that_row_alone(self, shape, dtype, bad):
        query, keys, values, shared, spans = pool(dtype, *shape)
        whole = attend(query, keys, values, shared, spans, 0.3)
        keys[1, :, 0, 0] = bad
        found = attend(query, keys, values, shared, spans, 0.3)
        mine = slice(spans[1, 1], spans[1, 2])
        # an infinite score of one sign is a certain choice, of the other an impossible one
        if bad != bad:
            assert not torch.isfinite(found[mine]).any()
        others = [n for n in range(len(found)) if not spans[1, 1] <= n < spans[1, 2]]
        assert torch.equal(found[others], whole[others])


def test_a_score_far_below_the_others_weighs_nothing():
    keys = torch.zeros(1, 1, 8, 64)
    keys[0, 0, 0, 1] = -1e4
    values = torch.zeros(1, 1, 64, 8)
    values[0, 0, 1] = 1e30
    values[0, 0, 0] = 2.0
    query = torch.ones(1, 1, 8)
    found = attend(query, keys, values, None, np.array([(0, 0, 1, 1)]), 1.0)
    assert torch.equal(found, torch.full((1, 1, 8), 2.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_store_writes_the_slots_of_the_spans_and_no_others(dtype):
    keys, values = torch.zeros(3, 2, 4, 64).to(dtype), torch.zeros(3, 2, 64, 4).to(dtype)
    new_keys, new_values = torch.rand(5, 2, 4).to(dtype) + 1, torch.rand(5, 2, 4).to(dtype) + 1
    store(new_keys, new_values, keys, values, np.array([(2, 0, 3, 7), (0, 3, 5, 0)]))
    assert torch.equal(keys[2, :, :, 7:10], new_keys[:3].permute(1, 2, 0))
    assert torch.equal(values[0, :, :2], new_values[3:].transpose(0, 1))
    assert int((keys != 0).sum()) == int((values != 0).sum()) == 5 * 2 * 4


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
class TestGreatest:
    def test_is_the_lowest_of_equal_ones(self, dtype):
        logits = torch.tensor([[1.0, 3.0, 3.0], [-2.0, -2.0, -5.0], [0.0, -0.0, 0.0]]).to(dtype)
        assert greatest(logits) == ([1, 0, 0], [True] * 3)

    def test_is_that_of_torch(self, dtype):
        logits = torch.randn(7, 501, generator=torch.Generator().manual_seed(3)).to(dtype)
        assert greatest(logits)[0] == logits.argmax(-1).tolist()

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_says_where_all_are_finite(self, dtype, bad):
        logits = torch.zeros(3, 5).to(dtype)
        logits[1, 4] = bad
        assert greatest(logits)[1] == [True, False, True]

    def test_takes_the_least_number_for_one(self, dtype):
        logits = torch.full((2, 5), torch.finfo(dtype).min, dtype=dtype)
        assert greatest(logits) == ([0, 0], [True, True])
