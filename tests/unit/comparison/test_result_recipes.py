"""The recipes of the committed results: readable, and laid out so that they can be compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from basinscope.widening import recipe, study

FOLDER = Path(__file__).parents[3] / "results"
RECIPES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"methods", "sigma", "wall", "small"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_can_be_read(path):
    found, _ = recipe.read(path)
    assert len(study.rows(found)) == len(found.methods) * len(found.seeds)


@pytest.mark.parametrize("name", ["methods", "repeated", "wall"])
def test_what_is_claimed_of_methods_has_three_seeds(name):
    assert len(recipe.read(FOLDER / f"{name}.yaml")[0].seeds) >= 3


@pytest.mark.parametrize(("name", "base"), [("sigma", "methods"), ("repeated-more", "repeated")])
def test_it_has_its_reference_in_another(name, base):
    """They agree in all but what changes no number, so one table holds both."""
    skip = {"about", "methods", "seeds", "checkpoint_every", "measure"}
    theirs, own = (recipe.read(FOLDER / f"{n}.yaml")[0].model_dump(exclude=skip)
                      for n in (base, name))  # fmt: skip
    assert theirs == own


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_makefile_names_every_recipe(path):
    assert path.stem in (FOLDER.parent / "Makefile").read_text()
