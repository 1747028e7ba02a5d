"""Records are whole or absent, believed only if they verify, and nobody else's are touched."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import threading
from pathlib import Path

import pytest
import torch

import basinscope as bs
from basinscope.runs.spec import canonical, sha256
from basinscope.runs.store import Store, _parse


def records(folder: Path) -> list[Path]:
    return sorted((folder / "trials").glob("*.json"))


def drafts(folder: Path) -> list[Path]:
    return list(folder.rglob(".draft-*"))


def signed(body: dict) -> str:
    """Text of a record with the checksum that fits it, however wrong it is."""
    body = {k: v for k, v in body.items() if k != "checksum"}
    return canonical({**body, "checksum": sha256(body)})


def changed(**fields):
    """Corruption that signs a record again after setting some of its fields."""

    def corrupt(path: Path) -> None:
        path.write_text(signed({**json.loads(path.read_text()), **fields}))

    return corrupt


def rekeyed(**fields):
    """Corruption whose address and checksum fit a key that does not fit the record."""

    def corrupt(path: Path) -> None:
        body = json.loads(path.read_text())
        path.write_text(signed({**body, "key": {**body["key"], **fields}}))

    return corrupt


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def anothers(path: Path) -> None:
    other = next(p for p in path.parent.glob("*.json") if p != path)
    shutil.copy(other, path)


def without(field: str):
    def corrupt(path: Path) -> None:
        body = json.loads(path.read_text())
        del body[field]
        path.write_text(signed(body))

    return corrupt


CORRUPTIONS = {
    "empty": lambda p: p.write_text(""),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-40]),
    "one digit": lambda p: p.write_text(p.read_text().replace('"draw":', '"draw":1', 1)),
    "not JSON": lambda p: p.write_text("hello"),
    "not an object": lambda p: p.write_text("[1, 2]"),
    "NaN": lambda p: p.write_text(p.read_text().replace("null", "NaN")),
    "nested without end": lambda p: p.write_text("[" * 100_000),
    "binary": lambda p: p.write_bytes(bytes(range(256))),
    "zeros": lambda p: p.write_bytes(bytes(400)),
    "directory": as_directory,
    "another's record": anothers,
    "wrong address": changed(address="0" * 64),
    "wrong checksum": lambda p: p.write_text(
        canonical({**json.loads(p.read_text()), "checksum": "0" * 64})
    ),
    "no checksum": lambda p: p.write_text(
        canonical({k: v for k, v in json.loads(p.read_text()).items() if k != "checksum"})
    ),
    "short column": changed(labels=["1"]),
    "no items": changed(items=[], correct=[], labels=[], margins=[], nlls=[]),
    "outcome 2": changed(correct=[2] * 8),
    "other step": changed(step=0.25),
    "other draw": changed(draw=7),
    "other task": changed(task="other"),
    "unknown field": lambda p: p.write_text(p.read_text().replace('"draw":', '"x":1,"draw":', 1)),
    "missing field": without("labels"),
    "key is a list": changed(key=[]),
    "empty key": changed(key={}),
    "other key": rekeyed(dtype="float16"),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_bad_record_is_set_aside_and_measured_again_alone(kind, toy, run, contents):
    before = contents(run)
    bad = records(run)[2]
    CORRUPTIONS[kind](bad)
    found = toy.measure(run)
    after = contents(run)
    assert toy.calls == 1, "only the bad one is measured again"
    assert len(found.set_aside) == 1
    assert found.set_aside[0].startswith(bad.name)
    assert "\n" not in found.set_aside[0]
    assert bad.with_suffix(".bad").exists()
    name = f"trials/{bad.name}"
    assert after[name][0] == before[name][0], "the same record as before"
    for other in before.keys() - {name}:
        assert after[other] == before[other], "no other file was touched"
    assert len(found.trials) == toy.trials
    assert not drafts(run)


@pytest.mark.parametrize("corrupt", [changed(format=2), changed(format=2, comment=""),
                                     changed(comment="")])  # fmt: skip
def test_a_record_of_a_later_version_is_left_alone(corrupt, toy, run, contents):
    corrupt(records(run)[2])
    before = contents(run)
    for attempt in (lambda: toy.measure(run), lambda: bs.load_run(run)):
        with pytest.raises(
            bs.BasinscopeError,
            match=rf"{records(run)[2].name} was written by a later version .*try: pip install --up",
        ) as caught:
            attempt()
        assert not any(word in str(caught.value) for word in ("corrupt", "delete"))
    assert contents(run) == before


def test_every_single_bit_flip_is_noticed(run):
    path = records(run)[0]
    good = path.read_bytes()
    original = _parse(good.decode(), path)
    for position in range(len(good)):
        for bit in range(8):
            flipped = bytearray(good)
            flipped[position] ^= 1 << bit
            try:
                read = _parse(flipped.decode(), path)
            except ValueError:  # of the decoder, of JSON, of the checksum
                continue
            assert read == original, f"byte {position}, bit {bit}"


def test_bad_records_are_kept_apart(toy, run):
    name = records(run)[0]
    for _ in range(3):
        name.write_text("bad")
        toy.measure(run)
    assert sorted(p.suffix for p in name.parent.glob(f"{name.stem}.bad*")) == [
        ".bad", ".bad1", ".bad2",
    ]  # fmt: skip


def test_record_that_may_not_be_read_is_left_alone(toy, run, monkeypatch, contents):
    before = contents(run)
    real = Path.read_text

    def refuse(self, *args, **kwargs):
        if self.parent.name == "trials":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(bs.BasinscopeError, match=r"cannot read .*Permission denied"):
        toy.measure(run)
    monkeypatch.undo()
    assert contents(run) == before


def test_what_is_read_is_what_was_put(toy, run):
    store = Store(run)
    for trial in store.trials():
        assert store.get(trial.address) == trial
        assert trial.address == sha256(trial.key)
    assert toy.measure(None).trials == toy.measure(run).trials


def test_put_refuses_an_inconsistent_record(toy, run):
    trial = next(iter(Store(run).trials())).model_copy(update={"correct": (1,)})
    with pytest.raises(ValueError, match="columns differ"):
        Store(run).put(trial)


# --- run.json -----------------------------------------------------------------------------------

BAD_HEADERS = {
    "empty": lambda p: p.write_text(""),
    "not JSON": lambda p: p.write_text("{"),
    "not an object": lambda p: p.write_text("3"),
    "binary": lambda p: p.write_bytes(b"\xff\xfe\x00"),
    "directory": as_directory,
    "no spec": lambda p: p.write_text("{}"),
    "hash edited": lambda p: p.write_text(p.read_text().replace('"hash": "', '"hash": "0')),
    "draws edited": lambda p: p.write_text(p.read_text().replace('"draws": 2', '"draws": 3')),
    "draws are words": lambda p: p.write_text(p.read_text().replace('"draws": 2', '"draws": "x"')),
    "format in words": lambda p: p.write_text(
        p.read_text().replace('"format": 1', '"format": "x"')
    ),
    "other kind": lambda p: p.write_text(p.read_text().replace('"kind": "l', '"kind": "x', 1)),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-9]),
}


@pytest.mark.parametrize("kind", BAD_HEADERS)
def test_corrupt_header_keeps_the_trials(kind, toy, run):
    (run / "report.html").touch()
    (run / "figures").mkdir()
    kept = {p.name: p.read_bytes() for p in records(run)}
    header = run / "run.json"
    BAD_HEADERS[kind](header)
    for attempt in (lambda: toy.measure(run), lambda: bs.load_run(run)):
        with pytest.raises(bs.BasinscopeError, match=r"run\.json is corrupt.*delete run\.json"):
            attempt()
    assert {p.name: p.read_bytes() for p in records(run)} == kept
    # the advice works
    shutil.rmtree(header) if header.is_dir() else header.unlink()
    assert len(toy.measure(run).trials) == toy.trials
    assert toy.calls == 0


def test_deleted_header_does_not_mix_selections(tmp_path):
    module = torch.nn.Linear(8, 2)
    task = bs.CallableTask("t", lambda m: [1, 0], n_items=2)
    for params in ("weight", "bias"):
        engine = bs.load(module, params=params)
        found = bs.landscape(engine, task, steps=[0.1], draws=1, run=tmp_path / "run")
        assert [t.step for t in found.trials] == [0.0, 0.1]
        assert found.trials == bs.load_run(tmp_path / "run").trials
        (tmp_path / "run" / "run.json").unlink()
    assert len(records(tmp_path / "run")) == 4


def test_draft_left_by_a_killed_writer_is_no_obstacle(toy, tmp_path):
    (tmp_path / ".draft-0123").write_text("{")
    assert len(toy.measure(tmp_path).trials) == toy.trials


# --- folders that are somebody else's -----------------------------------------------------------


def foreign_files(folder, toy, make_toy):
    folder.mkdir()
    (folder / "thesis.tex").write_text("do not lose me")
    return toy


def foreign_model(folder, toy, make_toy):
    make_toy(weight=2.0).measure(folder)
    return toy


def foreign_items(folder, toy, make_toy):
    make_toy(n_items=8).measure(folder)
    toy.task = bs.CallableTask(toy.task.name, toy.task.fn, n_items=8, version="2")
    return toy


def foreign_selection(folder, toy, make_toy):
    module = torch.nn.Linear(8, 1)
    toy.engine = bs.load(module, params="bias")
    toy.measure(folder)
    toy.engine = bs.load(module, params="weight")
    return toy


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (foreign_files, r"not empty and not a run folder \(it holds 'thesis.tex'\).*another"),
        (foreign_model, r"holds another run \(fingerprint .*another --run"),
        (foreign_items, r"holds another run \(items of 'half-spaces'.*another --run"),
        (foreign_selection, r"holds another run \(selection .*another --run"),
    ],
)
def test_foreign_folder_is_refused_and_not_touched(
    make, message, toy, make_toy, tmp_path, contents
):
    folder = tmp_path / "run"
    toy = make(folder, toy, make_toy)
    before = contents(folder)
    with pytest.raises(bs.BasinscopeError, match=message) as caught:
        toy.measure(folder)
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_a_file_is_no_run_folder(toy, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(bs.BasinscopeError, match=r"is a file; allowed: a new folder.*another"):
        toy.measure(file)
    with pytest.raises(bs.BasinscopeError, match=r"cannot write .*file is a file.*move away"):
        toy.measure(file / "below")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("make", ["missing", "empty", "file"])
def test_load_run_of_what_is_no_run(make, tmp_path):
    path = tmp_path / "x"
    {"missing": lambda: None, "empty": path.mkdir, "file": path.touch}[make]()
    with pytest.raises(bs.BasinscopeError, match=r"is not a run folder \(it has no run\.json\)"):
        bs.load_run(path)


def test_a_name_too_long_for_the_disk(toy, tmp_path):
    with pytest.raises(bs.BasinscopeError, match=r"cannot read .*too long.*another --run"):
        toy.measure(tmp_path / ("x" * 300))


def test_records_can_be_shared_with_a_group(run):
    mask = os.umask(0)
    os.umask(mask)
    for path in [run / "run.json", *records(run)]:
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


# --- a disk that is full ------------------------------------------------------------------------


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


# a file is synced, renamed, and its folder synced; run.json comes first, then five records
@pytest.mark.parametrize(
    ("where", "after"),
    [
        *(((os, "fsync"), n) for n in (0, 1, 2, 3, 7, 11)),
        *(((Path, "replace"), n) for n in (0, 1, 5)),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else str(value),
)
def test_disk_full_keeps_what_was_measured(where, after, toy, tmp_path, monkeypatch, contents):
    real, done = getattr(*where), 0

    def fail_later(*args, **kwargs):
        nonlocal done
        done += 1
        return real(*args, **kwargs) if done <= after else full()

    folder = tmp_path / "run"
    theta0 = toy.engine.fingerprint()
    monkeypatch.setattr(*where, fail_later)
    with pytest.raises(
        bs.BasinscopeError, match=r"cannot write .*No space left on device.*run the same line again"
    ) as caught:
        toy.measure(folder)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert not drafts(tmp_path)
    assert toy.engine.fingerprint() == theta0
    whole = [_parse(path.read_text(), path) for path in records(folder)]
    before = contents(folder)
    assert len(toy.measure(folder).trials) == toy.trials
    assert toy.calls == toy.trials - len(whole)
    after_resume = contents(folder)
    assert all(after_resume[name] == before[name] for name in before)


def test_disk_really_refuses(toy, tmp_path):
    """The kernel itself refuses to write beyond a size that run.json has and half a record has."""
    folder = tmp_path / "run"
    toy.measure(folder, steps=[0.0], draws=1)
    size = min(p.stat().st_size for p in records(folder)) // 2
    (folder / "run.json").rename(tmp_path / "run.json")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(bs.BasinscopeError, match=r"cannot write .*File too large") as caught:
            toy.measure(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "run.json" in str(caught.value)
    assert not drafts(folder)
    assert len(toy.measure(folder).trials) == toy.trials


# --- several writers ----------------------------------------------------------------------------


def test_two_writers_and_a_reader_of_the_same_record(toy, run, tmp_path):
    trials = list(Store(run).trials())
    spec = Store(run).spec
    stores = [Store(tmp_path / "shared", spec) for _ in range(3)]
    troubles: list[BaseException] = []

    def write(store: Store) -> None:
        try:
            for _ in range(20):
                for trial in trials:
                    store.put(trial)
        except BaseException as error:
            troubles.append(error)

    writers = [threading.Thread(target=write, args=(store,)) for store in stores[:2]]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        for trial in trials:
            read = stores[2].get(trial.address)
            assert read in (None, trial)
            seen += read is not None
    for writer in writers:
        writer.join()
    assert not troubles
    assert not stores[2].set_aside
    assert seen
    assert not drafts(tmp_path)
    shared = {p.name: p.read_bytes() for p in records(tmp_path / "shared")}
    assert shared == {p.name: p.read_bytes() for p in records(run)}


def test_a_record_that_vanishes_while_it_is_set_aside(run):
    store = Store(run)
    bad = records(run)[0]
    bad.write_text("bad")
    real = Path.rename

    def lose(self, target):
        self.unlink()
        return real(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", lose)
        assert store.get(bad.stem) is None
    assert len(store.set_aside) == 1
