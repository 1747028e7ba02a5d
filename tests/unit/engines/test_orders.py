"""The fewest rows of a product that keep their bits: found where a planted order changes."""

import pytest
import torch
from torch import nn

from basinscope.engines import orders
from basinscope.engines.orders import least_rows


def model(*extra):
    return nn.ModuleList([nn.Linear(32, 48), nn.Embedding(7, 32), nn.Conv1d(4, 8, 3), *extra])


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 40, 24))


@pytest.fixture
def products(monkeypatch):
    """Sizes of the products that are compared; one more rounding where ``planted`` says."""
    seen, planted = [], [lambda rows, size: False]

    def product(states, matrix):
        seen.append((len(states), *matrix.shape))
        exact = (states.double() @ matrix.double()).to(states.dtype)
        return exact * 1.001 if planted[0](len(states), len(matrix)) else exact

    monkeypatch.setattr(orders, "_product", product)
    return seen, planted


def test_is_four_where_nothing_differs(products):
    assert least_rows(model()) == 4


@pytest.mark.parametrize(("differs", "expected"), [
    (lambda rows, size: rows < 16, 16),
    (lambda rows, size: rows == 12, 16),
    (lambda rows, size: rows > 100, None),
    (lambda rows, size: rows == 32 and size == 24, None),  # in the experts alone
    (lambda rows, size: rows < 4, 4),
])  # fmt: skip
def test_is_where_a_planted_order_ends(products, differs, expected):
    products[1][0] = differs
    assert least_rows(model(Experts())) == expected


def test_a_difference_in_the_last_rows_counts(monkeypatch):
    def product(states, matrix):
        exact = states @ matrix.abs()
        exact[-1] += len(states) > 8
        return exact

    monkeypatch.setattr(orders, "_product", product)
    assert least_rows(model()) is None


def test_compares_linear_layers_and_experts_alone(products):
    least_rows(model(Experts()))
    assert {sizes[1:] for sizes in products[0]} == {(32, 48), (24, 40)}


def test_of_a_large_head_takes_its_first_rows(products, monkeypatch):
    monkeypatch.setattr(orders, "ELEMENTS", 640)
    least_rows(nn.Linear(32, 1000))
    assert {sizes[1:] for sizes in products[0]} == {(32, 20)}


def test_holds_for_no_device_but_the_cpu():
    assert least_rows(nn.Linear(8, 8, device="meta")) is None
