"""``--track``: the points and the results of a command, refused before anything is loaded."""

from __future__ import annotations

import json

import pytest


class Library:
    """A tracker that writes down what it is told."""

    def __init__(self):
        self.began, self.logged, self.finished = {}, [], 0

    def init(self, **options):
        print("noise on standard output")
        self.began = options
        return self

    def log(self, values, step):
        self.logged.append(values)

    def finish(self, exit_code=0):
        self.finished += 1
        self.failed = bool(exit_code)


@pytest.fixture
def library(monkeypatch):
    tracker = Library()
    monkeypatch.setattr("basinscope.tracking.find_spec", lambda word: True)
    monkeypatch.setattr("basinscope.tracking.import_module", lambda word: tracker)
    return tracker


def test_a_landscape_sends_its_points_and_then_its_means(run_cli, checkpoint, library, no_figure):
    line = ["landscape", str(checkpoint), "-t", "basic", "--limit", "4", "--steps", "0.1",
            "--draws", "2", "--run", "here", "--json", "--track", "wandb"]  # fmt: skip
    ended = run_cli(*line)
    assert ended.code == 0
    answer = json.loads(ended.out)  # and nothing else
    assert library.began["name"] == "here"
    assert library.began["config"]["command"].startswith("basinscope")
    assert library.finished == 1
    scores = [v["basic/random/score"] for v in library.logged if "basic/random/score" in v]
    assert len(scores) == 2
    (mean,) = [m for m in answer["means"] if m["step"] == 0.1]
    sent = [v for v in library.logged if v.get("means/basic/random/step") == 0.1]
    assert [v["means/basic/random/score"] for v in sent] == [mean["score"]]


def test_a_gate_that_is_lost_still_ends_its_tracking(run_cli, checkpoint, library):
    ended = run_cli("check", str(checkpoint), "quantised:2", "-t", "basic", "--limit", "4",
                    "--track", "wandb")  # fmt: skip
    assert ended.code in (0, 1, 3)
    assert (library.finished, library.failed) == (1, False)
    assert {f"changes/basic/quantised_2/{name}" for name in ("before", "after", "n")} <= {
        name for values in library.logged for name in values
    }


def test_a_run_that_is_interrupted_is_failed_and_the_command_says_so(
    run_cli, checkpoint, library, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("basinscope.runs.session.Session.measure", interrupt)
    ended = run_cli("landscape", str(checkpoint), "-t", "basic", "--limit", "4", "--steps", "0.1",
                    "--draws", "1", "--track", "wandb")  # fmt: skip
    assert ended.code == 130
    assert (library.finished, library.failed) == (1, True)


def test_a_dry_run_starts_no_tracker(run_cli, checkpoint, library):
    ended = run_cli("landscape", str(checkpoint), "-t", "basic", "--limit", "4", "--steps", "0.1",
                    "--draws", "1", "--track", "wandb", "--dry-run", "--json")  # fmt: skip
    assert ended.code == 0
    assert json.loads(ended.out)
    assert not library.began


@pytest.mark.parametrize(
    "words",
    [
        ["landscape", "/no/such", "--track", "trakio"],
        ["finetune", "/no/such", "--recipe", "safety", "--track", "trakio"],
        ["widen", "twin-0.2m", "--track", "trakio"],
    ],
)
def test_an_unknown_tracker(run_cli, words):
    ended = run_cli(*words)
    assert "error: tracker 'trakio'; allowed: trackio, wandb, mlflow; try: trackio" in ended.error


def test_one_that_is_not_installed(run_cli, monkeypatch):
    monkeypatch.setattr("basinscope.tracking.find_spec", lambda word: None)
    ended = run_cli("landscape", "/no/such", "--track", "mlflow")
    assert "try: pip install mlflow-skinny" in ended.error
