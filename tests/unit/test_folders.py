"""Run folders of every kind: read back, counted, verified; from before, from later, damaged."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
from command_line import ended
from run_folders import ITEMS, MAKE, layer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import basinscope as bs
from basinscope.attack import record as attacks
from basinscope.finetuning import checkpoint
from basinscope.folders import READERS, progress, verify
from basinscope.runs.header import KINDS
from basinscope.runs.spec import RunSpec, sha256
from basinscope.widening import loop

GOOD = {
    "landscape": 3, "surface": 2, "check": 2, "certificate": 61, "strict-basin": 46,
    "token-certificate": 7, "finetune": 3, "widen": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One run of every kind, made when it is first asked for."""
    folders = {}

    def make(kind):
        if kind not in folders:
            run = tmp_path_factory.mktemp(kind) / "run"
            folders[kind] = run, MAKE[kind](run)
        return folders[kind]

    return make


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the folder of a kind, to be damaged."""
    return lambda kind: Path(shutil.copytree(made(kind)[0], tmp_path / kind))


@pytest.fixture
def run_cli(capsys):
    return partial(ended, capsys)


def edit(path: Path, change) -> None:
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def test_every_kind_has_a_reader():
    assert READERS.keys() == KINDS.keys() == MAKE.keys()


def same(kind, record, other):
    if kind in ("landscape", "surface"):
        return (record.spec, record.trials) == (other.spec, other.trials)
    if kind == "certificate":
        return record.to_json() == other.to_json()
    return record == other


@pytest.mark.parametrize("kind", MAKE)
def test_what_is_read_is_what_was_returned(kind, made):
    run, record = made(kind)
    read = bs.load_run(str(run))
    assert type(read) is type(record)
    if kind == "attack":
        assert read.collapse
        assert read.summary() == record.summary()
    elif kind == "finetune":
        assert read.checkpoints
        assert read == record
    else:
        assert same(kind, read, record)


@pytest.mark.parametrize("kind", MAKE)
def test_folders_from_before_headers_had_a_kind_are_read(kind, made, copy):
    run, old = made(kind)[0], copy(kind)

    def undo(body):
        del body["kind"]
        if kind == "finetune":  # which had no version of its format either
            del body["format"]

    edit(old / KINDS[kind].header, undo)
    (old / "replacements.json").unlink(missing_ok=True)  # which came with the kind
    read, now = bs.load_run(old), bs.load_run(run)
    if kind == "token-certificate":
        assert read.p_items == now.p_items
        assert read.replacements == ()
    elif kind in ("attack", "finetune", "widen"):
        assert str(read.summary()).replace(str(old), str(run)) == str(now.summary())
    else:
        assert same(kind, read, now)


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("command", ["status", "verify", "report"])
def test_a_later_format_is_told_on_the_command_line(kind, command, copy, run_cli):
    run = copy(kind)
    edit(run / KINDS[kind].header, lambda body: body.update(format=2))
    code, out, err = run_cli(command, run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "written by a later version" in err
    assert "pip install --upgrade" in err
    assert "delete" not in err


def signed(path: Path, **more) -> None:
    body = {k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"} | more
    path.write_text(json.dumps({**body, "checksum": sha256(body)}))


def in_json(path: Path, **more) -> None:
    edit(path, lambda body: body.update(more))


def in_direction(path: Path, **more) -> None:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as shelf:
        body = json.loads(shelf.metadata()["basinscope-direction/1"])
    body["provenance"] |= more
    save_file(tensors, path, metadata={"basinscope-direction/1": json.dumps(body)})


def in_plan(path: Path, **more) -> None:
    body = json.loads(path.read_text())
    body["spec"]["plan"] |= more
    spec = RunSpec.model_validate(body["spec"])
    path.write_text(json.dumps(body | {"hash": spec.hash, "spec": spec.model_dump(mode="json")}))


LATER = [
    *((kind, "trials/*.json", signed) for kind in GOOD if kind not in ("finetune", "widen")),
    ("attack", "radius/trials/*.json", signed),
    ("attack", "worst.safetensors", in_direction),
    ("widen", "rows/*.json", in_json),
    ("token-certificate", "replacements.json", in_json),
]


@pytest.mark.parametrize("more", [{"format": 2}, {"format": 2, "new": 1}, {"new": 1}], ids=str)
@pytest.mark.parametrize(("kind", "file", "change"), LATER)
def test_one_record_of_a_later_version_is_told(kind, file, change, more, copy, run_cli):
    run = copy(kind)
    path = next(run.glob(file))
    change(path, **more)
    before = path.read_bytes()
    code, out, err = run_cli("report", run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{path.name} was written by a later version" in err
    assert "try: pip install --upgrade" in err
    assert not any(word in err for word in ("corrupt", "delete", "run the same line"))
    assert path.read_bytes() == before, "it is left alone"
    if file.startswith(("trials", "rows")):
        assert run_cli("verify", run)[0] == 2


def attack_state(folder: Path) -> None:
    run = attacks.Folder(folder, {"steps": 1})
    state = {"state": json.dumps({"format": 2, "hash": sha256({"steps": 1})})}
    save_file({}, folder / attacks.STATE, metadata=state)
    run.resume(torch.device("cpu"))


def training_state(folder: Path) -> None:
    (folder / "state.json").write_text('{"format": 2}')
    checkpoint.read(folder)


def study_state(folder: Path) -> None:
    (folder / "step-1").mkdir()
    (folder / "step-1" / "state.json").write_text('{"format": 2}')
    loop.train(torch.nn.Linear(1, 1), None, None, mock.Mock(compute=""), mock.Mock(), folder)


@pytest.mark.parametrize("resume", [attack_state, training_state, study_state])
def test_a_state_of_a_later_version_is_not_gone_on_from(resume, tmp_path):
    with pytest.raises(
        bs.BasinscopeError, match=r"state\.\w+ was written by a later version .*try: pip install"
    ):
        resume(tmp_path)


@pytest.mark.parametrize("kind", MAKE)
def test_a_header_with_more_fields_is_told(kind, copy):
    run = copy(kind)
    in_json(run / KINDS[kind].header, new=1)
    with pytest.raises(
        bs.BasinscopeError, match=r"later version .*\(its field 'new' is not .*try: pip install"
    ):
        bs.load_run(run)


def test_a_plan_with_more_fields_is_told(copy):
    run = copy("certificate")
    in_plan(run / "run.json", new=1)
    with pytest.raises(bs.BasinscopeError, match=r"run.json was written by a later .*'new' is not"):
        bs.load_run(run)


def test_a_direction_of_a_later_version_is_told(tmp_path):
    metadata = {"basinscope-direction/2": json.dumps({"provenance": {}})}
    save_file({"weight": torch.ones(1, ITEMS)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(bs.BasinscopeError, match=r"later version .*direction/2, .*try: pip inst"):
        bs.Saved(tmp_path / "x.safetensors").delta(layer(), "weight")


@pytest.mark.parametrize("kind", MAKE)
def test_a_header_with_a_field_missing_is_told(kind, copy):
    run = copy(kind)
    edit(run / KINDS[kind].header, lambda body: body.pop("spec"))
    with pytest.raises(bs.BasinscopeError, match=r"is corrupt \("):
        bs.load_run(run)


@pytest.mark.parametrize("kind", MAKE)
def test_verify_counts_every_record(kind, made, run_cli):
    run, _ = made(kind)
    good, bad = verify(run)
    assert bad == []
    if kind == "attack":  # the direction, and the points along it
        points = len(list((run / "radius" / "trials").glob("*.json")))
        assert good == 1 + points
        assert points > 5
    else:
        assert good == GOOD[kind]
    assert run_cli("verify", run)[:2] == (0, f"{good} records verified\n")


def test_verify_passes_over_what_other_systems_leave(made, copy):
    run = copy("landscape")
    for path in [*(run / "trials").iterdir()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    assert verify(run) == (verify(made("landscape")[0])[0], [])
    assert len(bs.load_run(run).trials) == GOOD["landscape"]


@pytest.mark.parametrize(
    ("kind", "file"),
    [("landscape", "trials/*.json"), ("attack", "radius/trials/*.json"),
     ("attack", "worst.safetensors"), ("finetune", "model.safetensors"),
     ("finetune", "checkpoints/*/model.safetensors"), ("widen", "rows/*.json")],
)  # fmt: skip
def test_verify_finds_damage(kind, file, made, copy, run_cli):
    good, run = verify(made(kind)[0])[0], copy(kind)
    path = next(run.glob(file))
    path.write_bytes(path.read_bytes()[:-9])
    code, out, err = run_cli("verify", run)
    assert (code, out) == (2, "")
    assert f"1 of {good} records did not verify" in err
    assert path.name in err


SAID = {
    "landscape": "report.html", "surface": "report.html", "check": "lost: against",
    "certificate": "p >= ",
    "strict-basin": "true up to 0.01", "token-certificate": "position-wise noise",
    "attack": "Collapse radius at level 0.5", "finetune": "direction: to:", "widen": "report.html",
}  # fmt: skip


@pytest.mark.usefixtures("no_figure")
@pytest.mark.parametrize("kind", MAKE)
def test_report_says_what_the_run_said(kind, copy, run_cli):
    code, out, err = run_cli("report", copy(kind))
    assert (code, err) == (0, "")
    assert SAID[kind] in out


TITLES = {
    "landscape": "Capability basins of", "surface": "A surface of", "check": "",
    "certificate": "A certificate of", "attack": "An attack on", "finetune": "A fine-tune of",
    "widen": "A study of training methods",
}  # fmt: skip


@pytest.mark.usefixtures("no_figure")
@pytest.mark.parametrize("kind", TITLES)
def test_every_kind_that_has_more_to_show_than_lines_has_a_page(kind, copy, run_cli):
    run = copy(kind)
    assert run_cli("report", run)[0] == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert TITLES[kind] in page
    assert "could not be made" not in page
    assert "nan" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL).split()
    assert "measures nothing twice" in page


@pytest.mark.parametrize(
    "kind", ["check", "strict-basin", "token-certificate", "attack", "finetune", "widen"]
)
@pytest.mark.parametrize("option", ["--figure=x.png", "--rms"])
def test_report_refuses_options_that_would_do_nothing(kind, option, made, run_cli):
    code, out, err = run_cli("report", made(kind)[0], option)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert KINDS[kind].noun in err


@pytest.mark.parametrize("kind", MAKE)
def test_status_says_the_kind(kind, made, run_cli):
    run, _ = made(kind)
    code, out, _ = run_cli("status", run)
    assert code == 0
    assert kind in out.splitlines()[0]
    code, out, _ = run_cli("status", run, "--json")
    assert code == 0
    assert isinstance(json.loads(out), dict)


def test_progress_of_what_is_done(made):
    assert progress(made("attack")[0]) == {
        "kind": "attack", "method": "pga", "state": "done", "steps": 6, "planned": 6,
    }  # fmt: skip
    tuned = progress(made("finetune")[0])
    assert (tuned["state"], tuned["steps"], tuned["planned"]) == ("done", 2, 2)
    assert progress(made("widen")[0])["rows"] == {"adamw-s0": "done", "go-s0": "missing"}


def test_what_is_not_finished_says_so_and_how_far_it_is(copy):
    run = copy("attack")
    (run / "worst.safetensors").unlink()
    with pytest.raises(bs.BasinscopeError, match=r"attack in .* is not finished; .*resumes"):
        bs.load_run(run)
    assert progress(run) | {"method": ""} == {
        "kind": "attack", "method": "", "state": "running", "steps": 0, "planned": 6,
    }  # fmt: skip
    run = copy("finetune")
    edit(run / "training.json", lambda body: body.update(state="running", steps=0))
    with pytest.raises(bs.BasinscopeError, match=r"fine-tune in .* is not finished; .*resumes"):
        bs.load_run(run)
    assert progress(run)["steps"] == 1, "its newest checkpoint"
    run = copy("certificate")
    shutil.rmtree(run / "trials")
    with pytest.raises(bs.BasinscopeError, match=r"draws without a gap; .*resumes"):
        bs.load_run(run)
    run = copy("token-certificate")
    next((run / "trials").glob("*.json")).unlink()
    with pytest.raises(bs.BasinscopeError, match=r"draws without a gap; .*resumes"):
        bs.load_run(run)


def test_collapse_radii_that_lack_a_point_are_not_finished(copy):
    run = copy("attack")
    next((run / "radius" / "trials").glob("*.json")).unlink()
    with pytest.raises(bs.BasinscopeError, match=r"the collapse radii in .* are not finished"):
        bs.load_run(run)


@pytest.mark.parametrize("text", ["", "{}", '{"target": 0.5, "replacements": [{"item": "a"}]}'])
def test_a_damaged_table_of_replacements_is_told(text, copy):
    run = copy("token-certificate")
    (run / "replacements.json").write_text(text)
    with pytest.raises(
        bs.BasinscopeError, match=r"replacements.json cannot be read .*run the same"
    ):
        bs.load_run(run)


def test_a_diverged_fine_tune_without_weights_gives_its_reason(copy):
    run = copy("finetune")
    edit(
        run / "training.json",
        lambda body: body.update(state="diverged", diverged="loss nan", steps=0, displacement=None),
    )
    with pytest.raises(bs.BasinscopeError, match=r"diverged before a checkpoint \(loss nan\)"):
        bs.load_run(run)
