"""bs.widen: rows trained, measured, fine-tuned; the same bytes again; what is refused."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import basinscope as bs
from basinscope.optim import methods
from basinscope.widening import loop, record

TIMES = {"train_s", "step_s", "finetune_s"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture
def study(folder, tiny, texts):
    """The tiny recipe, run once for all tests that only look."""
    return bs.widen(tiny(), run=folder, data_dir=texts)


def timeless(row):
    return row.model_dump(exclude=TIMES)


def weights(row_folder):
    return (row_folder / "model" / "model.safetensors").read_bytes()


def same_rows(one, other):
    assert [timeless(row) for row in one.rows] == [timeless(row) for row in other.rows]
    for name in ("adamw-s0", "go-sigma=0.01-s0"):
        a, b = (w.folder / "rows" / name for w in (one, other))
        if a.exists():
            assert weights(a) == weights(b)


# --- what comes out -----------------------------------------------------------------------------


def test_a_row_says_everything(study):
    assert [row.label for row in study.rows] == ["adamw", "go sigma=0.01"]
    for row in study.rows:
        assert row.state == "done"
        assert row.stopped == ""
        assert row.seed == 0
        assert row.steps == 60
        assert row.tokens == 60 * 8 * 16
        assert row.passes == 1.0
        assert row.train_s > 0
        assert row.step_s > 0
        assert 0 < row.nll < math.log(300)
        assert 0 < row.score < 1
        assert row.width["score"].estimate > 0
        assert row.width["score"].low <= row.width["score"].high
        assert len(row.widths["nll"]) == 6
        assert {draw for _, draw, _, _ in row.curves} == set(range(6))
        assert [point.step for point in row.over_training] == [30]
        assert row.over_training[0].nll > row.nll
        steps = [point.step for point in row.finetune]
        assert steps == [0, 1, 2, 5, 12]
        first, last = row.finetune[0], row.finetune[-1]
        assert last.new_nll < first.new_nll
        assert row.losses[0][1] > row.losses[-1][1]
    assert study.rows[1].method == {"name": "go", "sigma": 0.01}


PAIRS = {"go": {"sigma": 0.01, "antithetic": True}}


@pytest.mark.parametrize("method", [{"dropout": {"std": 0.1}}, PAIRS], ids=["dropout", "pairs"])
def test_a_method_that_asks_for_more_trains_on_after_a_measurement(method, tiny, texts, tmp_path):
    given = tiny(methods=[method], chinchilla=None, tokens=1024, finetune=None)
    (row,) = bs.widen(given, run=tmp_path / "more", data_dir=texts).rows
    assert len(row.over_training) == 1
    assert row.stopped == ""


def test_the_weights_of_a_row_load_like_any_model(study):
    engine = bs.load(study.folder / "rows" / "adamw-s0" / "model", dtype="float32")
    assert engine.d == study.rows[0].size
    assert engine.rms == pytest.approx(study.rows[0].rms, rel=1e-6)
    assert engine.tokenizer.eos_token == "<|endoftext|>"


def test_nothing_is_left_over_and_nothing_pickled(study):
    found = {p.name for p in study.folder.rglob("*") if p.is_file()}
    assert found == {
        "widen.json", "adamw-s0.json", "go-sigma=0.01-s0.json", "model.safetensors", "config.json",
        "tokenizer.json", "tokenizer_config.json", "generation_config.json",
    }  # fmt: skip


def test_a_finished_study_is_read_not_run(study, folder, tiny, texts, monkeypatch):
    monkeypatch.setattr(loop, "train", None)
    rest = folder / "rows" / "adamw-s0" / "tuning"  # of one that was killed when it was done
    (rest / "step-1").mkdir(parents=True)
    again = bs.widen(tiny(), run=folder, data_dir=texts)
    assert again.rows == study.rows
    assert not rest.exists()
    assert bs.load_run(folder).rows == study.rows


def test_the_table_has_a_line_for_each_row(study):
    lines = study.table().splitlines()
    assert lines[1].startswith("adamw seed 0")
    assert lines[2].startswith("go sigma=0.01 seed 0")
    width = study.rows[0].width["score"].estimate / study.rows[0].rms
    assert f"{width:.3f}" in lines[1]
    summary = json.loads(json.dumps(study.summary(), allow_nan=False))
    assert "curves" not in summary["rows"][0]
    assert summary["rows"][0]["nll"] == study.rows[0].nll


def test_rows_of_one_seed_begin_alike_and_see_the_same(tiny, texts, tmp_path):
    """GO without noise is AdamW, to the last bit and through all stages."""
    pair = ["adamw", {"name": "go", "options": {"sigma": 0.0}}]
    found = bs.widen(tiny(methods=pair), run=tmp_path / "x", data_dir=texts)
    one, two = (timeless(row) for row in found.rows)
    for own in ("method", "label"):
        one.pop(own)
        two.pop(own)
    assert one == two
    names = ("adamw-s0", "go-sigma=0-s0")
    assert len({weights(tmp_path / "x" / "rows" / name) for name in names}) == 1


def test_seeds_differ(tiny, texts, tmp_path):
    found = bs.widen(
        tiny(methods=["adamw"], seeds=[0, 1], finetune=None), run=tmp_path / "x", data_dir=texts
    )
    assert found.rows[0].nll != found.rows[1].nll


def test_the_global_generators_stay_as_they_were(tiny, texts, tmp_path):
    before = torch.get_rng_state()
    bs.widen(tiny(methods=["adamw"]), run=tmp_path / "x", data_dir=texts)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradient_accumulation_is_the_same_step_up_to_rounding(tiny, texts, tmp_path):
    found = [
        bs.widen(
            tiny(methods=["adamw"], accumulate=n, finetune=None), run=tmp_path / str(n),
            data_dir=texts,
        ).rows[0]
        for n in (1, 4)
    ]  # fmt: skip
    assert found[0].nll == pytest.approx(found[1].nll, rel=1e-3)
    assert found[0].losses[0][1] == pytest.approx(found[1].losses[0][1], rel=1e-5)


def test_averaged_weights_are_the_ones_that_are_kept(tiny, texts, tmp_path):
    pair = ["adamw", {"averaged": {"average": "tail:0.5"}}]
    found = bs.widen(tiny(methods=pair, finetune=None), run=tmp_path / "x", data_dir=texts)
    one, two = found.rows
    assert [a[1] for a in one.losses] == [b[1] for b in two.losses], "the same path"
    assert one.rms != two.rms, "another end"
    kept = bs.load(
        tmp_path / "x" / "rows" / "averaged-average=tail-0.5-s0" / "model", dtype="float32"
    )
    assert kept.rms == pytest.approx(two.rms, rel=1e-9)


def test_settings_of_a_method_go_before_those_of_the_recipe(tiny, texts, tmp_path):
    own = {"name": "adamw", "lr": 1e-9, "lr_schedule": "constant"}
    found = bs.widen(
        tiny(methods=["adamw", own], finetune=None), run=tmp_path / "x", data_dir=texts
    )
    assert found.rows[1].label == "adamw lr=1e-09 lr_schedule=constant"
    losses = [loss for _, loss in found.rows[1].losses]
    assert max(losses) - min(losses) < 0.2, "at such a rate nothing is learnt"
    assert found.rows[0].nll < found.rows[1].nll - 0.5


# --- equal in what ------------------------------------------------------------------------------


def test_one_that_stops_early_takes_its_share_of_the_steps_with_a_schedule_of_its_own(
    tiny, texts, tmp_path
):
    early = {"name": "adamw", "stop": 0.5}
    whole = bs.widen(tiny(methods=["adamw", early]), run=tmp_path / "a", data_dir=texts)
    long, short = whole.rows
    assert (long.steps, short.steps) == (60, 30)
    assert short.label == "adamw stop=0.5"
    alone = bs.widen(tiny(tokens=30 * 8 * 16), run=tmp_path / "b", data_dir=texts)
    assert alone.rows[0].nll == short.nll, "its learning rate ended at zero too"


def test_equal_passes_halve_the_steps_of_a_method_of_two(tiny, texts, tmp_path):
    pytest.importorskip("pytorch_optimizer")
    pair = ["adamw", {"nso": {"sigma": 0.01}}]
    found = bs.widen(
        tiny(methods=pair, equal="passes", finetune=None), run=tmp_path / "x", data_dir=texts
    )
    assert [row.passes for row in found.rows] == [1.0, 2.0]
    assert [row.steps for row in found.rows] == [60, 30]


def test_equal_wall_clock_times_every_method_once_and_keeps_it(tiny, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(
        record, "step_s", lambda study, row: 1.0 if row.spec.name == "adamw" else 1.6
    )
    made = tiny(equal="wall", finetune=None)
    found = bs.widen(made, run=tmp_path / "x", data_dir=texts)
    assert [row.steps for row in found.rows] == [60, 38]
    monkeypatch.setattr(record, "step_s", None)
    (tmp_path / "x" / "rows" / "go-sigma=0.01-s0.json").unlink()
    again = bs.widen(made, run=tmp_path / "x", data_dir=texts)
    same_rows(found, again)


# --- interrupted --------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "at"), [("go", 5), ("go", 25), ("averaged", 59), ("adamw", 35), ("adamw", 63)]
)
def test_interrupted_anywhere_it_goes_on_to_the_same_bytes(
    at, method, tiny, texts, tmp_path, monkeypatch
):
    options = {"go": {"sigma": 0.01}, "averaged": {"average": "ema:0.9"}}.get(method, {})
    few = {"draws": 1, "over_draws": 1, "windows": 2, "validation": 2}
    made = tiny(methods=[{"name": method, "options": options}], measure=few)
    whole = bs.widen(made, run=tmp_path / "whole", data_dir=texts)
    steps, real = [], methods.Method.step

    def step(self, *args, **kwargs):
        if len(steps) == at:
            raise Interrupted
        steps.append(1)
        return real(self, *args, **kwargs)

    for owner in (methods.Method,):
        monkeypatch.setattr(owner, "step", step)
    with pytest.raises(Interrupted, match=r"^$"):
        bs.widen(made, run=tmp_path / "part", data_dir=texts)
    monkeypatch.undo()
    monkeypatch.setenv("BASINSCOPE_CACHE", str(tmp_path / "cache"))  # the cache matters to nothing
    part = bs.widen(made, run=tmp_path / "part", data_dir=texts)
    same_rows(whole, part)
    name = next((tmp_path / "part" / "rows").glob("*.json")).stem
    assert weights(tmp_path / "part" / "rows" / name) == weights(tmp_path / "whole" / "rows" / name)
    assert not list((tmp_path / "part").rglob("step-*"))


def test_rows_may_be_added_and_chosen(tiny, texts, tmp_path):
    run = tmp_path / "x"
    one = bs.widen(tiny(methods=["adamw"], finetune=None), run=run, data_dir=texts)
    more = bs.widen(tiny(finetune=None), run=run, data_dir=texts, only=["go"])
    assert [row.label for row in more.rows] == ["go sigma=0.01"]
    both = bs.load_run(run)
    assert both.rows == (one.rows[0], more.rows[0])


OTHER = {
    "sigma": ({"methods": ["adamw", {"go": {"sigma": 0.02}}]},
              r"row go-sigma=0.01-s0 is gone, go-sigma=0.02-s0 is new"),
    "seed": ({"seeds": [1]}, r"row adamw-s0 is gone, adamw-s1 is new"),
    "rate": ({"lr": 0.01}, r"lr 0.02, now 0.01"),
    "nested": ({"measure": {"draws": 3}}, r"measure.draws 6, now 3"),
    "fine-tuning": ({"finetune": {"lr": 0.5}}, r"finetune.lr 0.001, now 0.5"),
    "option of one label": (
        {"methods": ["adamw", {"name": "go", "options": {"sigma": 0.5}, "label": "go sigma=0.01"}]},
        r"go-sigma=0.01-s0: sigma 0.01, now 0.5"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), OTHER.values(), ids=OTHER)
def test_another_study_in_the_folder_is_refused(changes, message, study, folder, tiny, texts):
    assert study.rows
    with pytest.raises(bs.BasinscopeError, match=f"holds another study .*{message}.*--run"):
        bs.widen(tiny(**changes), run=folder, data_dir=texts)


def test_a_study_from_when_there_were_proxy_texts_goes_on(tiny, texts, tmp_path):
    """Its header names none of them; one that names a text is another study."""
    made = tiny(methods=["adamw"], finetune=None)
    before = bs.widen(made, run=tmp_path / "x", data_dir=texts)
    path = tmp_path / "x" / record.FILE
    header = json.loads(path.read_text())
    header["spec"]["text of proxy"] = header["spec"]["recipe"]["proxy"] = None
    path.write_text(json.dumps(header))
    assert bs.widen(made, run=tmp_path / "x", data_dir=texts).rows == before.rows
    header["spec"]["recipe"]["proxy.files"] = ["other.txt"]
    path.write_text(json.dumps(header))
    with pytest.raises(bs.BasinscopeError, match=r"another study \(proxy.files \[.*now None"):
        bs.widen(made, run=tmp_path / "x", data_dir=texts)


def test_another_text_is_refused(study, folder, tiny, texts):
    assert study.rows
    (texts / "old.txt").write_text((texts / "old.txt").read_text() + "<|endoftext|>One more.")
    with pytest.raises(bs.BasinscopeError, match=r"holds another study \(text differs"):
        bs.widen(tiny(), run=folder, data_dir=texts)


def test_other_threads_are_said(study, folder, tiny, texts, monkeypatch):
    assert study.notes == ()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    again = bs.widen(tiny(), run=folder, data_dir=texts)
    assert "begun with threads 1, now 7" in again.notes[0]


# --- what goes wrong ----------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_row_and_is_told(tiny, texts, tmp_path):
    wild = {"name": "adamw", "lr": 1e30, "lr_schedule": "constant"}
    found = bs.widen(tiny(methods=[wild, "adamw"]), run=tmp_path / "x", data_dir=texts)
    row, good = found.rows
    assert row.state == "stopped"
    assert row.stopped.startswith("the loss was nan at step ")
    assert row.steps < 60
    assert row.nll is None
    assert row.width is None
    assert row.finetune == ()
    assert good.state == "done", "the others go on"
    assert row.stopped in found.table()
    assert (
        bs.widen(tiny(methods=[wild, "adamw"]), run=tmp_path / "x", data_dir=texts).rows[0] == row
    )


def test_weights_that_are_not_finite_at_a_mark_are_recorded_as_none(tiny, texts, tmp_path):
    """The loss of a step is that before it: a mark may meet NaN before any loss does."""
    wild = {"name": "adamw", "lr": 1e30, "lr_schedule": "constant", "warmup": 0.0}
    made = tiny(methods=["adamw", wild], measure={"over_training": [0.01], "draws": 1})
    found = bs.widen(made, run=tmp_path / "x", data_dir=texts)
    row = found.rows[1]
    assert row.stopped.startswith("the loss was nan at step 2")
    (point,) = row.over_training
    assert (point.step, point.nll, point.width) == (1, None, None)
    assert bs.compare(found.folder).save(tmp_path / "tables")


def test_a_faster_method_may_not_read_the_text_too_often(tiny, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(
        record, "step_s", lambda study, row: 1.0 if row.spec.name == "adamw" else 0.1
    )
    made = tiny(equal="wall", finetune=None)
    with pytest.raises(bs.BasinscopeError, match=r"go-sigma=0.01-s0 has .*at most 6 times"):
        bs.widen(made, run=tmp_path / "x", data_dir=texts)
    assert not (tmp_path / "x" / "rows").exists()


def test_a_row_is_trained_by_one_process(tiny, texts, tmp_path):
    made = tiny(methods=["adamw"], finetune=None, tokens=4 * 8 * 16, measure={"draws": 1})
    with record.claimed(tmp_path / "x", "adamw-s0", True):
        with (
            pytest.raises(bs.BasinscopeError, match=r"at work on row adamw-s0 .*--only"),
            record.claimed(tmp_path / "x", "adamw-s0", True),
        ):
            pass
        with record.claimed(tmp_path / "x", "adamw-s0", False):
            pass
    run = tmp_path / "z"
    holder = loop.train

    def train(*args, **kwargs):
        with pytest.raises(bs.BasinscopeError, match="at work on row adamw-s0"):
            bs.widen(made, run=run, data_dir=texts)
        return holder(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", train)
        assert bs.widen(made, run=run, data_dir=texts).rows[0].state == "done"


def test_a_text_too_small_is_refused_before_training(tiny, texts, tmp_path):
    with pytest.raises(
        bs.BasinscopeError,
        match=r"the text has [\d,]+ tokens for the [\d,]+ that are asked for "
        r"\(\d+\.\d\d times over it\); allowed: at most 1 times \(repeat\); "
        r"try: a longer text, fewer tokens, or repeat: \d",
    ):
        bs.widen(tiny(repeat=1, tokens=40000), run=tmp_path / "x", data_dir=texts)
    with pytest.raises(bs.BasinscopeError, match=r"the text of finetune has .*at most 1 times"):
        bs.widen(tiny(finetune={"steps": 500, "repeat": 1}), run=tmp_path / "x", data_dir=texts)
    with pytest.raises(bs.BasinscopeError, match="at least one window of 5000"):
        bs.widen(tiny(context=5000), run=tmp_path / "x", data_dir=texts)
    assert not (tmp_path / "x").exists()


def test_a_folder_of_something_else_is_left_alone(tiny, texts, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(
        bs.BasinscopeError, match=r"is not empty and not a run folder \(it holds 'letter"
    ):
        bs.widen(tiny(), run=tmp_path / "mine", data_dir=texts)
    with pytest.raises(bs.BasinscopeError, match=r"letter.txt is a file"):
        bs.widen(tiny(), run=tmp_path / "mine" / "letter.txt", data_dir=texts)
    with pytest.raises(bs.BasinscopeError, match="is not a run folder"):
        bs.load_run(tmp_path / "mine")


def test_a_corrupt_record_is_told(study, folder, tiny, texts, tmp_path):
    assert study.rows
    shutil.copytree(folder, tmp_path / "x")
    (tmp_path / "x" / "rows" / "adamw-s0.json").write_text("{")
    with pytest.raises(bs.BasinscopeError, match=r"adamw-s0.json cannot be read .*delete it"):
        bs.widen(tiny(), run=tmp_path / "x", data_dir=texts)


@pytest.mark.parametrize("cut", ["state.json", "state.safetensors"])
@pytest.mark.parametrize(
    "damage", [lambda b: b[:100], lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]]
)
def test_a_corrupt_checkpoint_is_told(cut, damage, tiny, texts, tmp_path, monkeypatch):
    real = loop.save

    def save(*args):
        real(*args)
        raise Interrupted

    monkeypatch.setattr(loop, "save", save)
    with pytest.raises(Interrupted, match=r"^$"):
        bs.widen(tiny(methods=["adamw"]), run=tmp_path / "x", data_dir=texts)
    monkeypatch.undo()
    (path,) = (tmp_path / "x").rglob(cut)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(bs.BasinscopeError, match=r"step-00000010 cannot be resumed from"):
        bs.widen(tiny(methods=["adamw"]), run=tmp_path / "x", data_dir=texts)


def test_rows_that_are_not_there(tiny, texts, tmp_path):
    with pytest.raises(bs.BasinscopeError, match="no row 'sam'; allowed: adamw-s0"):
        bs.widen(tiny(), run=tmp_path / "x", data_dir=texts, only=["sam"])
    with pytest.raises(bs.BasinscopeError, match="device='tpu'; allowed: auto, cpu"):
        bs.widen(tiny(), run=tmp_path / "x", data_dir=texts, device="tpu")


def test_a_trainer_before_it_in_the_process_changes_nothing(study, tiny, texts, tmp_path):
    AcceleratorState._reset_state(True)
    try:
        Accelerator(cpu=True, mixed_precision="bf16")
        again = bs.widen(tiny(methods=["adamw"]), run=tmp_path / "again", data_dir=texts)
    finally:
        AcceleratorState._reset_state(True)
    assert timeless(again.rows[0]) == timeless(study.rows[0])
