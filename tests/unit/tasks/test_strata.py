"""The share that every stratum has in the sample of a limit."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math

import pytest

import basinscope as bs
from basinscope.tasks import Choices, Generate, Task
from basinscope.tasks.base import items_hash, limited
from basinscope.tasks.choice import ChoiceTask, choice_item


def task(sizes: dict[str, int]) -> ChoiceTask:
    ids = [f"{stratum}/{i}" for stratum, n in sizes.items() for i in range(n)]
    return ChoiceTask("t", tuple(choice_item(i, "?", (" a", " b"), 0) for i in ids), 0.5)


def counts(sample: Task) -> dict[str, int]:
    return dict(collections.Counter(item.id.partition("/")[0] for item in sample.items))


SIZES = {"a": 60, "b": 30, "c": 9, "d": 1}
STRATA = task(SIZES)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, [{"a": 1}]),
        (10, [{"a": 6, "b": 3, "c": 1}]),
        # quotas 4.5 and 0.5: equal remainders
        (50, [{"a": 30, "b": 15, "c": 4, "d": 1}, {"a": 30, "b": 15, "c": 5}]),
        (99, [{"a": 59, "b": 30, "c": 9, "d": 1}]),
    ],
)
def test_strata_give_their_share(limit, expected):
    assert counts(limited(STRATA, limit)) in expected


def test_shares_are_within_one_of_their_quota_and_add_up():
    for limit in range(1, 100):
        found = counts(limited(STRATA, limit, seed=3))
        assert sum(found.values()) == limit
        for stratum, size in SIZES.items():
            quota = limit * size / 100
            assert math.floor(quota) <= found.get(stratum, 0) <= math.ceil(quota)


def test_equal_remainders_favour_no_name():
    even = task(dict.fromkeys("abcdefgh", 4))
    first = {next(iter(counts(limited(even, 1, seed)))) for seed in range(40)}
    assert len(first) >= 6


@pytest.mark.parametrize("seed", [0, 7])
def test_within_a_stratum_the_items_of_lowest_hash_are_taken(seed):
    def rank(item_id: str) -> str:
        return hashlib.sha256(f"{seed}:{item_id}".encode()).hexdigest()

    found = [item.id for item in limited(STRATA, 10, seed).items]
    ids = [item.id for item in STRATA.items if item.id.startswith("a/")]
    assert {i for i in found if i.startswith("a/")} == set(sorted(ids, key=rank)[:6])
    assert found == [item.id for item in STRATA.items if item.id in found]


def test_one_stratum_is_sampled_as_none_is():
    ids = [str(i) for i in range(20)]
    flat = ChoiceTask("t", tuple(choice_item(i, "?", (" a", " b"), 0) for i in ids), 0.5)
    lowest = sorted(ids, key=lambda i: hashlib.sha256(f"0:{i}".encode()).hexdigest())[:5]
    assert {item.id for item in limited(flat, 5).items} == set(lowest)


def plain(request: Choices | Generate) -> Choices | Generate:
    if isinstance(request, Generate):
        return dataclasses.replace(request, decided=None)
    return request


@pytest.mark.parametrize("name", ["basic", "safety", "none"])
def test_items_hash_is_that_of_the_whole_text(name):
    asked = task({}) if name == "none" else bs.tasks(name)[0]
    items = [
        dataclasses.asdict(dataclasses.replace(item, requests=tuple(map(plain, item.requests))))
        for item in asked.items
    ]
    text = json.dumps([asked.name, asked.scoring, asked.chance, items], sort_keys=True)
    assert items_hash(asked) == hashlib.sha256(text.encode()).hexdigest()
