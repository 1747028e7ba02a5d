"""Figures in trackers: read back by trackio and MLflow themselves, from local files."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import basinscope as bs
from basinscope import points
from basinscope.errors import BasinscopeError
from basinscope.tracking import TRACKERS, check_tracker, rows, track


def toy():
    layer = torch.nn.Linear(20, 1, bias=False)
    layer.weight.data.fill_(1.0)
    return layer, bs.CallableTask("positive", lambda module: module.weight[0] > 0, 20)


def measured(**options):
    layer, task = toy()
    return bs.landscape(layer, task, steps=[0.5, 1.0], draws=2, **options)


@pytest.fixture
def trackio(tmp_path, monkeypatch):
    """What trackio holds of a project: its run's figures, a row each."""
    storage = pytest.importorskip("trackio.sqlite_storage")
    folder = tmp_path / "trackio"
    for module in [m for n, m in sys.modules.items() if n.startswith("trackio") and m]:
        if hasattr(module, "TRACKIO_DIR"):  # read once, when it is imported
            monkeypatch.setattr(module, "TRACKIO_DIR", folder)
    monkeypatch.setenv("TRACKIO_DIR", str(folder))
    monkeypatch.delenv("TRACKIO_PROJECT", raising=False)

    def logs(name, project="basinscope"):
        return storage.SQLiteStorage.get_logs(project, name)

    return logs


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """The history of a figure in MLflow's one run."""
    library = pytest.importorskip("mlflow")
    where = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", where)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    library.set_tracking_uri(where)
    yield library.MlflowClient(where)
    library.set_tracking_uri(None)


def test_trackio_holds_every_trial(trackio, capsys):
    plain = measured()
    capsys.readouterr()
    with track("trackio", "a run", {"command": "x"}):
        land = measured()
    assert capsys.readouterr().out == ""
    assert list(land.trials) == list(plain.trials)
    logged = trackio("a run")
    for trial in land.trials:
        place = f"positive/{trial.direction or 'theta0'}"
        want = {f"{place}/alpha": trial.step, f"{place}/draw": trial.draw,
                f"{place}/score": trial.score}  # fmt: skip
        assert any(want.items() <= row.items() for row in logged), want
    assert len(logged) == len(list(land.trials)) == 5


def test_mlflow_holds_every_trial(mlflow):
    with track("mlflow", "a run", {"command": "x"}):
        land = measured()
    (experiment,) = mlflow.search_experiments(filter_string="name = 'basinscope'")
    (run,) = mlflow.search_runs([experiment.experiment_id])
    assert run.info.run_name == "a run"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"command": "x"}
    history = mlflow.get_metric_history(run.info.run_id, "positive/random/score")
    assert sorted(m.value for m in history) == sorted(
        t.score for t in land.trials if t.direction is not None
    )


def test_a_fine_tune_sends_its_losses(trackio, language_model, tokenizer, tmp_path):
    engine = bs.load(language_model, tokenizer=tokenizer)
    data = [{"prompt": "a b", "completion": " c"}] * 4
    with track("trackio", "tuned"):
        tuned = bs.finetune(engine, data, steps=3, batch=2, run=tmp_path / "out")
    losses = [row["loss"] for row in trackio("tuned") if "loss" in row]
    assert losses == pytest.approx(list(tuned.losses))
    assert [row["step"] for row in trackio("tuned")] == [1, 2, 3]


class Broken:
    """A library like wandb that breaks at the second point."""

    def init(self, **_):
        print("hello on standard output")
        self.logged = 0
        return self

    def log(self, values, step):
        self.logged += 1
        if self.logged == 2:
            raise ConnectionError("no route\x1b[2J to the\nserver")
        assert self.logged == 1

    def finish(self):
        raise AssertionError("asked once more")


def test_a_tracker_that_fails_takes_nothing_with_it(monkeypatch, capsys):
    monkeypatch.setattr("basinscope.tracking.find_spec", lambda word: True)
    monkeypatch.setattr("basinscope.tracking.import_module", lambda word: Broken())
    with track("wandb", "x"):
        assert len(list(measured().trials)) == 5
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("no more is sent") == 1
    assert "wandb: ConnectionError: no route" in said.err
    assert "\x1b" not in said.err


def test_a_tracker_that_does_not_start(monkeypatch):
    def refuse(**_):
        raise ValueError("no key\nin the house")

    library = type("Library", (), {"init": staticmethod(refuse)})
    monkeypatch.setattr("basinscope.tracking.find_spec", lambda word: True)
    monkeypatch.setattr("basinscope.tracking.import_module", lambda word: library)
    with (
        pytest.raises(BasinscopeError, match="wandb does not start: ValueError: no key in the"),
        track("wandb", "x"),
    ):
        raise AssertionError


@pytest.mark.parametrize("word", TRACKERS)
def test_one_that_is_not_installed_is_named_with_its_line(word, monkeypatch):
    monkeypatch.setattr("basinscope.tracking.find_spec", lambda word: None)
    with pytest.raises(BasinscopeError, match=rf"try: pip install {TRACKERS[word]}$"):
        check_tracker(word)


def test_an_unknown_word_is_refused():
    with pytest.raises(BasinscopeError, match=r"'trackoi'; allowed: trackio, .*try: trackio"):
        check_tracker("trackoi")


def test_other_processes_of_a_distributed_run_send_nothing(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("basinscope.tracking._Tracker", None)
    with track("trackio", "x"):
        assert not points.are_heard()


def test_hostile_names_and_figures(trackio):
    with track("trackio", "name\x1b[2J"):
        points.send({"to:<b>\x1b[2J/../score": 0.5, "nan": float("nan"), "inf": float("inf")})
        points.send({"nan": float("nan")})
    logged = trackio("name\\x1b[2J")
    assert [set(row) & {"nan", "inf", "to__b___2J/../score"} for row in logged] == [
        {"to__b___2J/../score"}
    ]


def test_listeners_end_with_their_body():
    got = []
    with points.heard_by(lambda figures, step: got.append((dict(figures), step))):
        points.send({"a": 1.0}, 3)
    points.send({"a": 2.0})
    assert got == [({"a": 1.0}, 3)]


def test_rows_of_an_answer():
    answer = {
        "d": 3, "done": True, "none": None, "text": "x",
        "means": [{"task": "basic", "direction": "random", "step": 0.1, "low": 0.2},
                  {"task": "basic", "direction": "random", "step": 0.2, "low": None}],
        "inner": {"deep": {"n": 1.5}}, "numbers": [1, 2],
    }  # fmt: skip
    assert list(rows(json.loads(json.dumps(answer)))) == [
        {"d": 3},
        {"means/basic/random/step": 0.1, "means/basic/random/low": 0.2},
        {"means/basic/random/step": 0.2},
        {"inner/deep/n": 1.5},
    ]
