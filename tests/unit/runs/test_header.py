"""Headers of run folders: kind and format; those of earlier and of later versions."""

from __future__ import annotations

import json

import pytest

import basinscope as bs
from basinscope.runs import header


def write(folder, name, body):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(body if isinstance(body, str) else json.dumps(body))
    return folder


# as they were written before headers had a kind
BEFORE = {
    "landscape": ("run.json", {"format": 1, "spec": {"kind": "landscape"}}),
    "surface": ("run.json", {"format": 1, "spec": {"kind": "surface"}}),
    "check": ("run.json", {"format": 1, "spec": {"kind": "check"}}),
    "certificate": ("run.json", {"format": 1, "spec": {"kind": "certificate"}}),
    "strict-basin": ("run.json", {"format": 1, "spec": {"kind": "strict-basin"}}),
    "token-certificate": ("run.json", {"format": 1, "spec": {"kind": "token-certificate"}}),
    "attack": ("attack.json", {"format": 1, "spec": {"kind": "attack/1"}}),
    "finetune": ("training.json", {"spec": {}}),
    "widen": ("widen.json", {"format": 1, "spec": {}}),
}


def test_every_kind_has_a_header_from_before():
    assert BEFORE.keys() == header.KINDS.keys()


@pytest.mark.parametrize("kind", BEFORE)
def test_the_kind_is_told_with_and_without_its_word(kind, tmp_path):
    name, body = BEFORE[kind]
    assert header.kind_of(write(tmp_path, name, body)) == kind
    assert header.kind_of(write(tmp_path, name, {**body, "kind": kind})) == kind


@pytest.mark.parametrize("kind", BEFORE)
def test_a_later_format_is_no_damage(kind, tmp_path):
    name, body = BEFORE[kind]
    folder = write(tmp_path, name, {**body, "format": 2, "kind": "new"})
    with pytest.raises(
        bs.BasinscopeError,
        match=rf"{name} was written by a later version .*\(format 2, .*up to 1\); .*try: pip",
    ) as caught:
        header.kind_of(folder)
    assert not any(word in str(caught.value) for word in ("corrupt", "delete"))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "it is not a JSON object"),
        ({"format": "1", "spec": {"kind": "surface"}}, "its format is '1'"),
        ({"format": 1}, "its kind is ''"),
        ({"format": 1, "kind": "attack"}, "its kind is 'attack'"),
        ({"format": 1, "kind": ["surface"]}, "its kind is"),
    ],
)
def test_damage_is_told_in_one_line(body, reason, tmp_path):
    with pytest.raises(
        bs.BasinscopeError, match=rf"run\.json is corrupt \(.*{reason}.*delete run\.json"
    ) as caught:
        header.kind_of(write(tmp_path, "run.json", body))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", header.KINDS)
def test_a_folder_is_free_where_nothing_else_is(kind, tmp_path):
    header.check_free(tmp_path / "new", kind)
    for name in (".draft-1", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "mine").touch()
    header.check_free(tmp_path, kind, parts=("mine",))
    with pytest.raises(
        bs.BasinscopeError,
        match=r"not empty and .* \(it holds 'mine'\); allowed: a new folder.*-o$",
    ):
        header.check_free(tmp_path, kind, option="-o")
    with pytest.raises(
        bs.BasinscopeError, match=r"mine is a file; allowed: a new folder.*another --run"
    ):
        header.check_free(tmp_path / "mine", kind)


@pytest.mark.parametrize("kind", ["attack", "finetune", "widen"])
def test_a_run_of_another_kind_is_named(kind, tmp_path):
    folder = write(tmp_path, *BEFORE[kind])
    noun = header.KINDS[kind].noun
    with pytest.raises(bs.BasinscopeError, match=rf"holds {noun}, not a landscape; .*another"):
        header.check_free(folder, "landscape")
    assert str(header.missing(folder, "surface")).startswith(f"{folder} holds {noun}, not a surf")


def test_a_folder_whose_name_safetensors_cannot_open_is_refused(tmp_path):
    with pytest.raises(bs.BasinscopeError, match="is no UTF-8"):
        header.check_free(tmp_path / "half \udcff", "attack")
