"""Texts on the command line: from a file to the figure, and what is said of items that failed."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

TEXT = "The rain in Spain stays mainly in the plain, said he; and she did not disagree.\n" * 20


def test_a_text_is_measured_and_drawn(checkpoint, run_cli, tmp_path):
    (tmp_path / "own.txt").write_text(TEXT)
    line = ("landscape", checkpoint, "-t", "nll:own.txt,basic", "--steps", "0,0.2", "--draws", 2,
            "--limit", 2, "--run", "run", "--workers", 1)  # fmt: skip
    code, out, _ = run_cli(*line, "--json")
    assert code == 0
    found = json.loads(out)
    rows = [(row["task"], row["step"], row["unit"]) for row in found["likelihood"]]
    assert rows == [("nll:own.txt", 0.0, "token"), ("nll:own.txt", 0.2, "token"),
                    ("basic", 0.0, "answer"), ("basic", 0.2, "answer")]  # fmt: skip
    assert all(row["nll"] > 0 for row in found["likelihood"])
    figure = tmp_path / "run" / "figures" / "likelihood.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert pd.read_csv(figure.with_suffix(".csv"))["nll"].tolist() == pytest.approx(
        [row["nll"] for row in found["likelihood"]]
    )
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Likelihood beside the 0-1 score" in page


def test_items_that_do_not_fit_are_said_and_counted(checkpoint, run_cli, tmp_path):
    # 5 worked examples are more than this model's 256 tokens
    (tmp_path / "gsm8k").mkdir()
    row = json.dumps({"question": "How many is a dozen?" * 4, "answer": "12.\n#### 12"})
    for split in ("train", "test"):
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text(f"{row}\n" * 6)
    line = ("landscape", checkpoint, "-t", "gsm8k", "--data-dir", tmp_path, "--steps", "0",
            "--limit", 3, "--run", "run")  # fmt: skip
    code, out, _ = run_cli(*line)
    assert code == 0
    said = " ".join(out.split())
    expected = (
        r"gsm8k: 3 of 3 items had no answer at step 0 and count as wrong "
        r"\(3 times: prompt of \d+ tokens does not fit the context of 256; items \d, \d, \d\)"
    )
    assert re.search(expected, said)
    assert "gsm8k 0.00 0.00 [0.00" in re.sub(r"[│┃ ]+", " ", said)
    assert re.search(expected, (tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    code, out, _ = run_cli("status", "run", "--json")
    assert re.fullmatch(expected, json.loads(out)["failures"][0])


def test_a_text_that_is_not_there_is_one_line(checkpoint, run_cli):
    code, out, err = run_cli("landscape", checkpoint, "-t", "nll:gone.txt", "--steps", "0")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: no text 'gone.txt' \(No such file[^\n]+\n", err)
