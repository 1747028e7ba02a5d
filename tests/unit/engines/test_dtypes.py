"""The faster dtype is measured, and what the device cannot multiply is refused."""

import pytest
import torch

from basinscope.engines import dtypes
from basinscope.errors import BasinscopeError

CPU = torch.device("cpu")


@pytest.fixture
def times(monkeypatch):
    """Seconds that products take, as a test sets them."""
    seconds = {"bfloat16": 1.0, "float32": 1.0, "float16": 1.0}
    monkeypatch.setattr(dtypes, "seconds", lambda dtype, device: seconds[dtype])
    return seconds


class TestResolved:
    @pytest.mark.parametrize(
        ("bfloat16", "expected"), [(0.3, "bfloat16"), (1.0, "bfloat16"), (1.01, "float32"),
                                   (8.0, "float32"), (float("inf"), "float32")],
    )  # fmt: skip
    def test_auto_is_bfloat16_where_that_is_at_least_as_fast(self, times, bfloat16, expected):
        times["bfloat16"] = bfloat16
        assert dtypes.resolved("auto", CPU) == expected

    @pytest.mark.parametrize("dtype", dtypes.DTYPES)
    def test_what_is_given_is_taken(self, times, dtype):
        times["float16"] = 1e9
        assert dtypes.resolved(dtype, CPU) == dtype

    def test_an_unknown_one_is_refused(self):
        with pytest.raises(BasinscopeError, match="dtype 'int8'; allowed: auto, bfloat16, float32"):
            dtypes.resolved("int8", CPU)

    def test_one_that_the_device_cannot_multiply_is_refused_in_one_line(self, monkeypatch):
        def linear(states, weight):
            raise RuntimeError("\"addmm\" not implemented for 'Half'\nand a second line")

        monkeypatch.setattr(dtypes, "linear", linear)
        with pytest.raises(BasinscopeError, match=r"float16 on cpu.*'Half'\); allowed.*auto") as e:
            dtypes.resolved("float16", CPU)
        assert "\n" not in str(e.value)


class TestReason:
    def test_of_a_choice_names_the_ratio(self, times):
        times["float32"] = 3.1
        assert dtypes.reason("bfloat16", CPU, chosen=True) == (
            "dtype bfloat16: its products are 3.1 times as fast as float32's here"
        )

    @pytest.mark.parametrize(("dtype", "seconds", "named"), [
        ("bfloat16", 8.0, "float32 would be 8 times"), ("bfloat16", 1.4, ""),
        ("float32", 8.0, "bfloat16 would be 8 times"), ("float16", 8.0, "bfloat16 would be 8 tim"),
    ])  # fmt: skip
    def test_of_what_was_given_names_what_is_much_faster(self, times, dtype, seconds, named):
        times[dtype] = seconds
        line = dtypes.reason(dtype, CPU, chosen=False)
        assert named in line
        assert bool(line) == bool(named)

    def test_of_other_dtypes_is_empty(self):
        assert dtypes.reason("float64", CPU, chosen=False) == ""
        assert dtypes.reason("bfloat16+float32", CPU, chosen=False) == ""


class TestSeconds:
    def test_are_those_of_products_in_that_dtype_with_one_thread(self, monkeypatch):
        seen, real = set(), torch.nn.functional.linear

        def linear(states, weight):
            seen.add((states.dtype, weight.dtype, states.shape[0], torch.get_num_threads()))
            return real(states, weight)

        monkeypatch.setattr(dtypes, "linear", linear)
        dtypes.seconds.cache_clear()
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            assert 0 < dtypes.seconds("float32", CPU) < 1
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)
        assert seen == {(torch.float32, torch.float32, rows, 1) for rows in dtypes.ROWS}

    def test_are_infinite_where_there_is_no_such_product(self, monkeypatch):
        def linear(states, weight):
            raise RuntimeError("not implemented")

        monkeypatch.setattr(dtypes, "linear", linear)
        dtypes.seconds.cache_clear()
        assert dtypes.seconds("bfloat16", CPU) == float("inf")
        dtypes.seconds.cache_clear()
