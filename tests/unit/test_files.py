"""A file or folder is written whole, brought to the disk, or not there at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

import basinscope as bs
from basinscope import files

SOURCE = Path(bs.__file__).parent


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def synced(monkeypatch):
    """Names of what was brought to the disk, in order; those of drafts as ``draft``."""
    real, seen = os.fsync, []

    def fsync(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        seen.append("draft" if path.name.startswith(files.DRAFT) else path.name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def test_what_other_systems_leave_is_not_there(tmp_path):
    """In a folder, in the records, in a checkpoint: the kind is one list of names."""
    for name in (".DS_Store", "._a.json", "Thumbs.db", "desktop.ini", "a.json", ".draft-1"):
        (tmp_path / name).touch()
    for name in ("@eaDir/b.json", "__MACOSX/b.json", "b/a.json", "b/._a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in files.entries(tmp_path)] == ["a.json", "b"]
    deep = files.entries(tmp_path, "**/*.json")
    assert [str(path.relative_to(tmp_path)) for path in deep] == ["a.json", "b/a.json"]
    assert files.entries(tmp_path / "none") == []


def test_what_is_there_is_described(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert files.describe("folder") == "an empty folder"
    for name in "fedcba":
        Path("folder", name).touch()
    Path("link").symlink_to("gone")
    os.mkfifo("pipe")
    for path, description in {
        "folder": "a folder of a, b, c, d, e, ...",
        "folder/a": "a file",
        "folder/a/b": "nothing: folder/a is a file",
        "foldr/a": "nothing: . has no 'foldr', but 'folder'",
        "link": "a link to gone, which is not there",
        "link/a": "nothing: link is a link to gone, which is not there",
        "pipe": "neither a file nor a folder",
        "a" * 300: "out of reach: File name too long",
    }.items():
        assert files.describe(path) == description


def test_a_mark_in_the_name_of_what_exists_parts_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "a,b,c", "d"):
        Path(name).touch()
    assert files.split_at(",", "a,b,c,d") == ["a,b,c", "d"]
    assert files.split_at(",", "d,a,b,x") == ["d", "a,b", "x"]
    assert files.split_at(",", ",x,") == ["", "x", ""]
    assert files.split_at("+", "1*a,b+d", lambda part: part.removeprefix("1*")) == ["1*a,b", "d"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "on another disk"),
     (errno.EACCES, "mend the permissions"), (errno.ENAMETOOLONG, "give a shorter name")],
)  # fmt: skip
def test_the_advice_fits_the_error(number, advice, tmp_path):
    error = files.disk_error(tmp_path / "x", OSError(number, os.strerror(number)))
    assert f"({os.strerror(number)})" in str(error)
    assert advice in str(error)


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "run").symlink_to("gone")
    with pytest.raises(bs.BasinscopeError, match=r"run is a link to gone.*move away what is in"):
        files.write(tmp_path / "run" / "trials" / "x", "1")


@pytest.mark.parametrize("content", ["Σ\n", b"\x00\xff"])
def test_what_is_read_is_what_was_written(content, tmp_path, synced):
    path = tmp_path / "new" / "x"
    for _ in range(2):  # the second takes the place of the first
        files.write(path, content)
        data = path.read_bytes()
        assert data == (content.encode() if isinstance(content, str) else content)
    assert names(tmp_path) == ["new", "new/x"]
    assert synced == ["draft", "new"] * 2


def test_files_have_the_permissions_of_any_new_file(tmp_path):
    files.write(tmp_path / "x", "")
    (tmp_path / "y").touch()
    with files.whole_folder(tmp_path / "f"):
        pass
    (tmp_path / "g").mkdir()
    modes = [(tmp_path / name).stat().st_mode for name in "xyfg"]
    assert modes[:2] == [modes[1]] * 2
    assert modes[2:] == [modes[3]] * 2


def test_a_body_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "x"
    files.write(path, "old")

    def fail(context):
        with context as draft:
            target = draft / "part" if draft.is_dir() else draft
            target.write_text("half")
            raise ZeroDivisionError

    for context in (
        files.whole(path),
        files.whole_folder(tmp_path / "folder"),
        files.whole_files(tmp_path),
    ):
        with pytest.raises(ZeroDivisionError):
            fail(context)
    assert names(tmp_path) == ["x"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left")]
)
@pytest.mark.parametrize("context", [files.whole, files.whole_folder, files.whole_files])
def test_a_disk_that_is_full(context, error, tmp_path):
    def fail(*explain):
        with context(tmp_path / "x", *explain):
            raise error

    with pytest.raises(
        bs.BasinscopeError, match=r"cannot write .*x \(No space left.*run the same line again"
    ):
        fail()
    with pytest.raises(bs.BasinscopeError, match=r"^mine: x, .*No space left"):
        fail(lambda path, reason: bs.BasinscopeError(f"mine: {path.name}, {reason}", "a", "b"))
    assert not list(tmp_path.rglob(f"{files.DRAFT}*"))


def test_errors_for_the_user_pass_through(tmp_path):
    def fail():
        with files.whole(tmp_path / "x"):
            raise bs.BasinscopeError("mine", "a", "b")

    with pytest.raises(bs.BasinscopeError, match=r"^mine; allowed: a; try: b$"):
        fail()


def test_a_folder_comes_with_all_that_is_in_it(tmp_path, synced):
    with files.whole_folder(tmp_path / "new" / "folder") as draft:
        (draft / "a").write_text("a")
        (draft / "sub").mkdir()
        (draft / "sub" / "b").write_text("b")
        assert names(tmp_path / "new") == [draft.name, *(f"{draft.name}/{n}" for n in names(draft))]
    assert names(tmp_path) == ["new", "new/folder"] + [
        f"new/folder/{name}" for name in ("a", "sub", "sub/b")
    ]
    assert sorted(synced[:3]) == ["a", "b", "sub"]
    assert synced[3:] == ["draft", "new"]


@pytest.mark.parametrize("shared", [True, False])
def test_a_folder_that_another_process_has_made_meanwhile(shared, tmp_path):
    def make():
        with files.whole_folder(tmp_path / "folder", shared=shared) as draft:
            (draft / "mine").touch()
            (tmp_path / "folder").mkdir()
            (tmp_path / "folder" / "theirs").touch()

    if shared:
        make()
    else:
        with pytest.raises(bs.BasinscopeError, match=r"cannot write .*folder"):
            make()
    assert names(tmp_path) == ["folder", "folder/theirs"]


def test_files_go_into_a_folder_one_by_one(tmp_path, synced):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("old")
    (folder / "other").touch()
    with files.whole_files(folder) as draft:
        (draft / "a").write_text("new")
        (draft / "b").write_text("new")
    assert names(folder) == ["a", "b", "other"]
    assert (folder / "a").read_text() == "new"
    assert sorted(synced[:2]) == ["a", "b"]
    assert synced[2:] == ["draft", "folder"]


def test_drafts_of_the_dead_can_be_removed(tmp_path):
    (tmp_path / f"{files.DRAFT}1").touch()
    (tmp_path / f"{files.DRAFT}2").mkdir()
    (tmp_path / f"{files.DRAFT}2" / "x").touch()
    (tmp_path / "x").touch()
    files.remove_drafts(tmp_path)
    assert names(tmp_path) == ["x"]
    files.remove_drafts(tmp_path / "nowhere")


@pytest.mark.parametrize("word", ["os.fsync", '".draft-', "os.replace"])
def test_nobody_else_does_it_by_hand(word):
    others = [path for path in SOURCE.rglob("*.py") if word in path.read_text(encoding="utf-8")]
    assert [path.relative_to(SOURCE).name for path in others] in (["files.py"], [])


class TestOrdinary:
    def test_a_file_is_read(self, tmp_path):
        (tmp_path / "a.json").write_text('{"a": "é"}', encoding="utf-8")
        assert files.ordinary(tmp_path / "a.json") == tmp_path / "a.json"
        assert files.read_json(tmp_path / "a.json") == {"a": "é"}

    @pytest.mark.timeout(20)
    def test_what_has_no_end_or_is_no_file_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        for path, reason in (
            (tmp_path / "fifo", "no file"),
            (Path("/dev/zero"), "no file"),
            (tmp_path, "a folder"),
        ):
            with pytest.raises(OSError, match=f"it is {reason}"):
                files.read_json(path)

    def test_a_file_that_is_too_large_is_not_read(self, tmp_path):
        with (tmp_path / "large").open("wb") as file:
            file.truncate(files.MOST_BYTES + 1)
        with pytest.raises(OSError, match=r"it has 536,870,913 bytes"):
            files.read_json(tmp_path / "large")
        assert files.ordinary(tmp_path / "large", None)

    def test_deep_json_is_a_value_error(self, tmp_path):
        (tmp_path / "deep").write_text("[" * 20_000)
        with pytest.raises(ValueError, match="nested too deeply"):
            files.read_json(tmp_path / "deep")


def test_half_a_character_is_written_as_its_escape(tmp_path):
    files.write(tmp_path / "a", "half \udcff")
    assert (tmp_path / "a").read_text() == "half \\udcff"


@pytest.mark.parametrize("word", ["", " "])
def test_no_name_is_no_model(word):
    with pytest.raises(bs.BasinscopeError, match="there is no name"):
        files.at_path(word)
