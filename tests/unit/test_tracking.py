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
    while library.active_run():
        library.end_run()
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


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "FAILED"), (SystemExit, "FINISHED")],
)
def test_mlflow_says_how_a_run_ended(mlflow, error, status):
    with pytest.raises(error), track("mlflow", "a run"):  # noqa: PT012
        points.send({"a": 1.0})
        raise error
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("basinscope").experiment_id])
    assert (run.info.status, run.data.metrics) == (status, {"a": 1.0})


def test_of_two_mlflow_runs_each_has_its_own_points(mlflow):
    import mlflow as library

    mine = library.start_run(run_name="mine")
    with track("mlflow", "outer"):
        points.send({"a": 1.0})
        with track("mlflow", "inner"):
            points.send({"b": 2.0})
        points.send({"c": 3.0})
    assert library.active_run().info.run_id == mine.info.run_id
    library.log_metric("mine", 1.0)
    library.end_run()
    assert library.start_run().info.experiment_id == mine.info.experiment_id
    runs = mlflow.search_runs([mlflow.get_experiment_by_name("basinscope").experiment_id])
    assert {run.info.run_name: set(run.data.metrics) for run in runs} == {
        "outer": {"a", "b", "c"}, "inner": {"b"},
    }  # fmt: skip
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert mlflow.get_run(mine.info.run_id).data.metrics == {"mine": 1.0}


def test_of_two_trackio_runs_each_has_its_own_points(trackio):
    import trackio as library

    mine = library.init(project="mine", name="mine")
    with track("trackio", "outer"):
        points.send({"a": 1.0})
        with track("trackio", "inner"):
            points.send({"b": 2.0})
        points.send({"c": 3.0})
    library.log({"mine": 1.0})
    mine.finish()
    figures = {"a", "b", "c", "mine"}
    assert [set(row) & figures for row in trackio("outer")] == [{"a"}, {"b"}, {"c"}]
    assert [set(row) & figures for row in trackio("inner")] == [{"b"}]
    assert [set(row) & figures for row in trackio("mine", "mine")] == [{"mine"}]


def test_mlflow_takes_every_name_and_any_number_of_figures(mlflow):
    hostile = ["to:/a//b/./../c/", "/root", "..", "a/../b", "x" * 400, "\x1b[2J<b>", "naïve:"]
    with track("mlflow", "/".join(["folder"] * 100), {"command": "y" * 9000}):
        points.send({f"{name}/score": 0.5 for name in hostile})
        points.send({f"item-{n}": float(n) for n in range(1001)})
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("basinscope").experiment_id])
    assert len(run.data.metrics) == len(hostile) + 1001
    assert run.info.run_name.endswith("folder/folder")
    assert len(run.info.run_name) == 128


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

    def finish(self, exit_code):
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


def test_mlflow_without_a_store_says_what_brings_one(monkeypatch):
    def refuse(_):
        raise ValueError("unsupported URI 'sqlite:///mlflow.db'")

    library = type("Library", (), {"get_experiment_by_name": staticmethod(refuse)})
    monkeypatch.setattr("basinscope.tracking.import_module", lambda word: library)
    with (
        pytest.raises(BasinscopeError, match="try: pip install mlflow, for a local store, or MLFL"),
        track("mlflow", "x"),
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
    assert [set(row) & {"nan", "inf", "to__b___2J/_/score"} for row in logged] == [
        {"to__b___2J/_/score"}
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
                  {"task": "basic", "direction": "random", "step": 0.2, "low": None,
                   "reason": "a sentence that says why; no label"}],
        "inner": {"deep": {"n": 1.5}}, "numbers": [1, 2],
    }  # fmt: skip
    assert list(rows(json.loads(json.dumps(answer)))) == [
        {"d": 3},
        {"means/basic/random/step": 0.1, "means/basic/random/low": 0.2},
        {"means/basic/random/step": 0.2},
        {"inner/deep/n": 1.5},
    ]
