"""Studies written by hand: run folders as `widen` leaves them, with numbers that are known."""

from __future__ import annotations

import json

import pytest


def _row(method, seed, *, label=None, size=1000, tokens=20_000, **own):
    """A row of which everything is known: forgetting grows as `forget` times what is learnt."""
    forget = own.pop("forget", 1.0)
    reach = own.pop("reach", 2.0)
    start = own.pop("start", 4.0)
    width, rms, nll = own.pop("width", 0.02), own.pop("rms", 0.1), own.pop("nll", 3.0)
    curve = [
        {"step": k, "new_nll": start - reach * k / 4, "new_score": 0.2,
         "old_nll": nll + forget * reach * k / 4, "old_score": 0.3}
        for k in range(5)
    ]  # fmt: skip
    wide = {
        "score": {"low": width / 2, "estimate": width, "high": 2 * width, "reason": ""},
        "nll": {"low": width / 2, "estimate": width / 2, "high": width, "reason": ""},
    }
    return {
        "method": method,
        "label": label or method["name"],
        "seed": seed,
        "state": "done",
        "stopped": "",
        "size": size,
        "tokens": tokens,
        "steps": 10,
        "passes": 1.0,
        "train_s": 1.0,
        "step_s": 0.1,
        "losses": [],
        "over_training": [
            {"step": 5, "tokens": tokens // 2, "nll": nll + 1, "rms": rms, "width": wide}
        ],
        "finetune": curve,
        "nll": nll,
        "nll_at_zero": nll,
        "rms": rms,
        "rms_of": {"attention": rms, "norms": 1.0},
        "score": 0.3,
        "floor": {"score": 0.05, "nll": 6.0},
        "width": wide,
        "widths": {"score": [width], "nll": [width / 2]},
        "curves": [
            [x * rms, draw, max(0.0, 0.3 - x), nll + x] for draw in (0, 1) for x in (0.1, 0.2, 0.4)
        ],
    } | own


def _study(folder, rows, *, equal="tokens", **recipe):
    """A run folder with these rows."""
    (folder / "rows").mkdir(parents=True)
    names = [f"{row['label']}-s{row['seed']}".replace(" ", "-") for row in rows]
    spec = {
        "recipe": {"equal": equal, "batch": 1, "checkpoint_every": 5} | recipe,
        "text": "a",
        "text of finetune": "b",
        "rows": {name: row["method"] for name, row in zip(names, rows, strict=True)},
    }
    (folder / "widen.json").write_text(
        json.dumps({"format": 1, "spec": spec, "versions": {}, "threads": 1})
    )
    for name, row in zip(names, rows, strict=True):
        (folder / "rows" / f"{name}.json").write_text(json.dumps(row))
    return folder


GO = {"name": "go", "sigma": 0.01}


@pytest.fixture
def study(tmp_path):
    """Three seeds of adamw and of go, which forgets half as much and costs a tenth more."""
    rows = []
    for seed, wobble in enumerate((0.98, 1.0, 1.02)):
        rows.append(_row({"name": "adamw"}, seed, forget=wobble))
        rows.append(
            _row(GO, seed, label="go sigma=0.01", forget=0.5 * wobble, width=0.05, step_s=0.11,
                     nll=3.03)
        )  # fmt: skip
    return _study(tmp_path / "study", rows)


@pytest.fixture
def row_of():
    return _row


@pytest.fixture
def study_of():
    return _study
