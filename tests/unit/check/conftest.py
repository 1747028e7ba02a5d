"""Logs as lm-eval itself writes them, of models that toss coins."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

DOCUMENTS = 60


def logged(folder: Path, seed: int, *, shots: int = 0, version: int = 1) -> Path:
    """Folder of what ``lm-eval run --log_samples --output_path`` writes."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Coin(LM):
        """Half of what it says is said by every coin: outcomes before and after are related."""

        def loglikelihood(self, requests, **_):
            return [(self._toss(*request.args), False) for request in requests]

        def loglikelihood_rolling(self, requests, **_):
            return [0.0 for _ in requests]

        def generate_until(self, requests, **_):
            return ["#### 1" for _ in requests]

        @staticmethod
        def _toss(context, continuation):
            own = sha256(f"{context}{continuation}".encode()).digest()[0]
            text = f"{context}{continuation}" + (f"{seed}" if own < 100 else "")
            return -float(sha256(text.encode()).digest()[1]) - 1.0

    rows = folder / "rows.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    rows.write_text("".join(
        json.dumps({"q": f"question {i}", "a": i % 2}) + "\n" for i in range(DOCUMENTS)
    ))  # fmt: skip
    task = {
        "task": "coins", "dataset_path": "json", "test_split": "test", "training_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(rows)}}, "output_type": "multiple_choice",
        "doc_to_text": "{{q}}", "doc_to_target": "a", "doc_to_choice": ["no", "yes"],
        "num_fewshot": shots, "metadata": {"version": version},
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    results = simple_evaluate(
        Coin(), tasks=[task], log_samples=True, bootstrap_iters=0, fewshot_random_seed=1,
        task_manager=TaskManager(include_defaults=False),
    )  # fmt: skip
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name_sanitized = "coin"
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name, many in samples.items():
        tracker.save_results_samples(task_name=name, samples=many)
    rows.unlink()
    return folder


@pytest.fixture(scope="session")
def logs(tmp_path_factory):
    """Logs of two coins, and of the second with shots and as a later version."""
    folder = tmp_path_factory.mktemp("logs")
    kinds = {
        "base": {"seed": 0}, "tuned": {"seed": 1},
        "shots": {"seed": 1, "shots": 2}, "version": {"seed": 1, "version": 2},
    }  # fmt: skip
    return {name: logged(folder / name, **options) for name, options in kinds.items()}
