"""Recipes: what they take, and what they say of what they do not."""

from __future__ import annotations

import re

import pytest

import basinscope as bs
from basinscope.widening import recipe, study
from basinscope.widening.recipe import Shape

SHIPPED = ["gpt2-owt", "twin-0.2m", "twin-1m", "twin-3m", "twin-10m"]


def test_shipped_recipes_are_known_by_name():
    assert sorted(recipe.shipped()) == sorted(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_whole(name):
    found, folder = recipe.read(name)
    assert folder == recipe.OWN_RECIPES
    assert study.rows(found)
    assert found.finetune is not None
    assert [entry.name for entry in found.methods][:2] == ["adamw", "go"]


def test_the_shapes_have_the_sizes_of_their_names():
    for name, low, high in (
        ("twin-0.2m", 0.15e6, 0.25e6), ("twin-1m", 0.8e6, 1.2e6), ("twin-3m", 2.5e6, 3.5e6),
        ("twin-10m", 8e6, 12e6),
    ):  # fmt: skip
        found, _ = recipe.read(name)
        assert low < found.model.parameters(found.tokenizer, found.context) < high


@pytest.mark.parametrize(
    ("shape", "vocabulary", "context"), [((2, 12, 3), 50, 9), ((1, 8, 1), 3, 4)]
)
def test_parameters_are_those_of_transformers(shape, vocabulary, context, tiny):
    layers, width, heads = shape
    own = Shape(layers=layers, width=width, heads=heads)
    made, _ = recipe.read(tiny(model=own.model_dump(), context=context))
    module = study.gpt2(made, vocabulary, 0)
    assert own.parameters(vocabulary, context) == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("written", "spelt"),
    [
        ("adamw", {"name": "adamw"}),
        ({"go": {"sigma": 0.1}}, {"name": "go", "options": {"sigma": 0.1}}),
        ({"adamw": None}, {"name": "adamw", "options": {}}),
        ({"name": "go", "lr": 0.1}, {"name": "go", "lr": 0.1}),
        ({"name": "adamw"}, {"name": "adamw"}),
    ],
    ids=["word", "options", "no options", "settings", "name alone"],
)
def test_methods_as_recipes_write_them(written, spelt):
    assert recipe.entry(written) == spelt


def test_numbers_that_yaml_takes_for_words(tmp_path, tiny):
    import yaml

    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(tiny()).replace("lr: 0.02", "lr: 2e-2"))
    found, folder = recipe.read(path)
    assert found.lr == 0.02
    assert folder == tmp_path
    assert found == recipe.read(tiny())[0]


def test_rows_are_methods_times_seeds(tiny):
    made, _ = recipe.read(
        tiny(
            seeds=[0, 1], methods=["adamw", {"name": "adamw", "lr": 0.1, "lr_schedule": "wsd:0.1"}]
        )
    )
    assert [row.name for row in study.rows(made)] == [
        "adamw-s0", "adamw-lr=0.1-lr_schedule=wsd-0.1-s0",
        "adamw-s1", "adamw-lr=0.1-lr_schedule=wsd-0.1-s1",
    ]  # fmt: skip


WRONG = {
    "key": ({"modle": 1}, "unknown key 'modle'; allowed: .*; try: model"),
    "nested key": ({"measure": {"drws": 3}}, "unknown key 'measure.drws'; .*try: draws"),
    "method key": ({"methods": [{"name": "go", "option": {}}]},
                   "unknown key 'methods.0.option'; .*try: options"),
    "text key": ({"finetune": {"text": {"file": ["a"]}}},
                 "unknown key 'finetune.text.file'; .*try: files"),
    "missing": ({"lr": None}, "the key 'lr' is missing"),
    "negative": ({"lr": -1.0}, "lr -1.0; allowed: greater than 0"),
    "NaN": ({"lr": float("nan")}, "lr nan; allowed: a finite"),
    "word for number": ({"batch": "many"}, "batch 'many'; allowed: a valid integer"),
    "fraction of a window": ({"batch": 2.5}, "batch 2.5; allowed: a valid integer"),
    "heads": ({"model": {"layers": 1, "width": 10, "heads": 3}}, "width 10; allowed: a multiple"),
    "micro-batches": ({"accumulate": 3}, "batch 8; allowed: a multiple of accumulate 3"),
    "two lengths": ({"chinchilla": 1}, "tokens=.*, chinchilla=.*; allowed: one of the two"),
    "no length": ({"tokens": None}, "tokens=.*, chinchilla=.*; allowed: one of the two"),
    "no method": ({"methods": []}, "methods is empty"),
    "seed twice": ({"seeds": [1, 1]}, "seeds names one twice"),
    "no seed": ({"seeds": []}, "seeds is empty; allowed: at least one; try: 0"),
    "endless warm-up": ({"warmup": float("inf")}, "warmup inf; allowed: a finite number"),
    "endless decay": ({"weight_decay": float("inf")}, "weight_decay inf; allowed: a finite"),
    "empty label": ({"methods": [{"name": "adamw", "label": ""}]}, "label .*; allowed: one line"),
    "two lines": ({"methods": [{"name": "adamw", "label": "a\nb"}]}, "label .*; allowed: one line"),
    "one method": ({"methods": "adamw"}, "methods 'adamw'; allowed: a valid list"),
    "seed": ({"seeds": [-1]}, "seeds.0 -1; allowed: greater than or equal to 0"),
    "schedule": ({"lr_schedule": "cosin"}, "'cosin'; allowed: constant, linear, cosine, wsd"),
    "share": ({"lr_schedule": "wsd:2"}, "'wsd:2'; allowed: constant"),
    "method's schedule": ({"methods": [{"name": "adamw", "lr_schedule": "wsd"}]},
                          "'wsd'; allowed: constant"),
    "equal": ({"equal": "time"}, "equal 'time'; allowed: 'tokens', 'passes' or 'wall'"),
    "compute": ({"compute": "int8"}, "compute 'int8'; allowed: 'float32' or 'bfloat16'"),
    "two texts": ({"text": {"dataset": "a"}}, "dataset=.*; allowed: one of the two"),
    "share of training": ({"measure": {"over_training": [1.5]}}, "less than or equal to 1"),
    "characters of a data set": ({"text": {"files": [], "dataset": "a", "characters": 9}},
                                 "characters with a dataset; allowed: with files"),
    "no characters": ({"text": {"characters": 0}}, "greater than or equal to 1"),
    "stopped at once": ({"methods": [{"name": "adamw", "stop": 0}]}, "greater than 0"),
    "stopped late": ({"methods": [{"name": "adamw", "stop": 1.5}]}, "less than or equal to 1"),
    "hold out all": ({"text": {"hold_out": 1.0}}, "hold_out 1.0; allowed: less than 0.5"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_recipe_is_refused_in_one_line(changes, message, tiny):
    with pytest.raises(bs.BasinscopeError, match=message) as caught:
        recipe.read(tiny(**changes))
    assert "\n" not in str(caught.value)


METHODS = {
    "unknown": (["goo"], "method 'goo'; allowed: .*try: go"),
    "option": ([{"go": {"sigm": 1}}], "try: sigma"),
    "no sigma": (["go"], "go without sigma"),
    "negative sigma": ([{"go": {"sigma": -1}}], "sigma=-1"),
    "NaN sigma": ([{"go": {"sigma": float("nan")}}], "sigma=nan"),
    "twice": (["adamw", {"adamw": {}}], "names one twice|called 'adamw'"),
    "long": ([{"name": "adamw", "label": "x" * 300}], "303 characters.*shorter `label`"),
}


@pytest.mark.parametrize(("methods", "message"), METHODS.values(), ids=METHODS)
def test_a_wrong_method_is_refused_before_anything_is_read(methods, message, tiny, tmp_path):
    with pytest.raises(bs.BasinscopeError, match=message):
        bs.widen(tiny(methods=methods), run=tmp_path / "x")
    assert not (tmp_path / "x").exists()


FITS = {
    "selection": ({"methods": ["adamw", {"go": {"sigma": 0.1, "select": "nosuch"}}]},
                  "select='nosuch' matches no parameter"),
    "pairs": ({"methods": ["adamw", {"go": {"sigma": 0.1, "antithetic": True}}], "batch": 6,
               "accumulate": 3}, "antithetic noise with 3 micro-batches in a step"),
    "pairs of fine-tuning": (
        {"finetune": {"method": {"go": {"sigma": 0.1, "antithetic": True}}, "batch": 1}},
        "antithetic noise with 1 micro-batches in a step"),
    "fine-tuning's word": ({"finetune": {"method": "goo"}}, "method 'goo'; .*try: go"),
    "fine-tuning's selection": (
        {"finetune": {"method": {"go": {"sigma": 0.1, "select": "nosuch"}}}},
        "select='nosuch' matches no parameter"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), FITS.values(), ids=FITS)
def test_a_method_that_does_not_fit_is_refused_before_any_row_is_trained(
    changes, message, tiny, texts, tmp_path
):
    for of in (lambda made: bs.widen(made, run=tmp_path / "x", data_dir=texts),
               lambda made: bs.widen(made | {"hardware": {}, "vocabulary": 300},
                                     dry_run=True)):  # fmt: skip
        with pytest.raises(bs.BasinscopeError, match=message):
            of(tiny(**changes))
    assert not (tmp_path / "x").exists()


def test_words_that_look_like_numbers_stay_words(tiny):
    made, _ = recipe.read(tiny(methods=[{"name": "adamw", "label": "007"}], about="2024"))
    assert (made.methods[0].label, made.about) == ("007", "2024")


FILES = {
    "misspelt name": ("twin-1", None, r"no recipe 'twin-1'; .*try: twin-1m"),
    "no file": ("nosuch.yaml", None, "no recipe 'nosuch.yaml'; allowed: gpt2-owt"),
    "no YAML": ("a.yaml", "a: [1", "a.yaml is not YAML"),
    "bytes": ("a.yaml", b"\xff\xfe\x00", "a.yaml is not YAML"),
    "a list": ("a.yaml", "- 1", "a.yaml holds no keys; allowed: "),
    "empty": ("a.yaml", "", "a.yaml holds no keys"),
    "below a file": ("a.yaml/b.yaml", None, "no recipe 'a.yaml/b.yaml'"),
    "folder": (".", None, r"no recipe '\.'"),
}


@pytest.mark.parametrize(("name", "content", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_recipe(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").touch()
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(bs.BasinscopeError, match=message) as caught:
        recipe.read(name)
    assert not re.search("\n", str(caught.value))
