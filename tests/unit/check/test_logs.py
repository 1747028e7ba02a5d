"""Logs of lm-eval (its own) and Inspect in place of models; what cannot be compared is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from command_line import ended
from statsmodels.stats.contingency_tables import mcnemar

from basinscope.check.logs import check_logs, read_logs
from basinscope.errors import BasinscopeError


def samples(folder) -> Path:
    (path,) = Path(folder).rglob("samples_*.jsonl")
    return path


def results(folder) -> Path:
    (path,) = Path(folder).rglob("results_*.json")
    return path


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in samples(folder).read_text().splitlines()]


@pytest.fixture
def copies(logs, tmp_path):
    """Copies of the logs of two coins, to be damaged."""
    return [Path(shutil.copytree(logs[name], tmp_path / name)) for name in ("base", "tuned")]


@pytest.fixture
def run_cli(capsys):
    return partial(ended, capsys)


def test_the_paired_result_is_mcnemars_of_statsmodels(logs):
    (change,) = check_logs(logs["base"], logs["tuned"]).changes
    before, after = ({r["doc_hash"]: r["acc"] for r in rows(logs[k])} for k in ("base", "tuned"))
    table = [[sum((before[d], after[d]) == (a, b) for d in before) for b in (1, 0)] for a in (1, 0)]
    assert (len(change.lost), len(change.gained)) == (table[0][1], table[1][0])
    assert min(len(change.lost), len(change.gained)) > 0
    assert change.p_value == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-12)
    assert change.difference == pytest.approx((sum(after.values()) - sum(before.values())) / 60)
    lost = {str(r["doc_id"]) for r in rows(logs["base"])
            if r["acc"] == 1 and after[r["doc_hash"]] == 0}  # fmt: skip
    assert set(change.lost) == lost


def test_documents_are_matched_by_hash_and_not_by_place(logs, copies):
    path = samples(copies[1])
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    (one,) = check_logs(*copies).changes
    (other,) = check_logs(logs["base"], logs["tuned"]).changes
    assert one.lost == other.lost
    assert one.gained == other.gained


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("shots", r"coins: the number of shots is 0 in .* and 2 in "),
        ("version", r"coins: version is 1 in .* and 2 in "),
    ],
)
def test_logs_of_other_settings_are_refused(logs, name, match):
    with pytest.raises(BasinscopeError, match=match):
        check_logs(logs["base"], logs[name])


def cut(folder):
    path = samples(folder)
    path.write_bytes(path.read_bytes()[:-200])


def ends_early(folder):
    path = samples(folder)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-7]))


def empty(folder):
    samples(folder).write_text("")


def without_results(folder):
    results(folder).unlink()


def with_half_of_the_results(folder):
    results(folder).write_text(results(folder).read_text()[:100])


def without_hashes(folder):
    edited(folder, lambda row: row.pop("doc_hash"))


def of_another_document(folder):
    edited(folder, lambda row: row.update(doc_hash="x") if row["doc_id"] in (3, 5) else None)


def with_a_float(folder):
    edited(folder, lambda row: row.update(acc=0.5))


def of_another_task(folder):
    path = samples(folder)
    path.rename(path.with_name(path.name.replace("coins", "dice")))
    text = results(folder).read_text()
    results(folder).write_text(text.replace('"coins"', '"dice"'))


def of_two_models(folder):
    shutil.copytree(samples(folder).parent, folder / "another")


def without_samples(folder):
    samples(folder).unlink()


def without_anything(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def edited(folder, change):
    many = rows(folder)
    for row in many:
        change(row)
    samples(folder).write_text("".join(json.dumps(row) + "\n" for row in many))


DAMAGE = {
    cut: r"samples_coins_.* is cut off or damaged \(line 60: ",
    ends_early: r"is cut off or damaged \(it has 53 of 60 documents\)",
    empty: r"is cut off or damaged \(it is empty\)",
    without_results: "no results_.* beside .*: versions and shots cannot be compared",
    with_half_of_the_results: r"results_.* is cut off or damaged \(",
    without_hashes: "line 1, has no doc_hash; allowed: samples of lm-eval 0.4.4",
    of_another_document: r"documents or prompts that do not match: .*alone has 2 \(3, 5\); .*alone "
    r"has 2 \(3, 5\)",
    with_a_float: r"coins: no metric is 0 or 1 for each document \(of acc\)",
    of_another_task: r"logs of different tasks: .*tuned lacks \(coins\); .*base lacks \(dice\)",
    of_two_models: r"holds samples in 2 folders \(another, coin\)",
    without_samples: "lm-eval's results without the samples",
    without_anything: "no logs at .*: it is an empty folder",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_bad_logs_are_refused_in_one_line(damage, copies, run_cli):
    damage(copies[1])
    with pytest.raises(BasinscopeError, match=DAMAGE[damage]):
        check_logs(*copies)
    code, out, err = run_cli("check", "--logs", *copies)
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["-t", "cions"], "has no log of task 'cions'; allowed: coins; try: coins"),
        (["--on", "dice=0.1"], "a loss that is allowed on 'dice', which is not asked"),
        (["--on", "coins"], "--on coins; allowed: TASK=LOSS"),
        (["--allow", "1.5"], "allow=1.5; allowed: a loss of the score"),
        (["-t", "coins@f1"], "coins: metric 'f1' is 0 or 1 for each document"),
        (["--confidence", "95"], "confidence=95"),
    ],
)
def test_bad_words_are_refused_in_one_line(words, match, logs, run_cli):
    code, out, err = run_cli("check", "--logs", logs["base"], logs["tuned"], *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert match in err


def test_exit_codes_say_the_verdict(logs, copies, run_cli):
    line = ["check", "--logs", logs["base"]]
    assert run_cli(*line, logs["tuned"], "--allow", "0.9")[0] == 0
    code, out, _ = run_cli(*line, logs["tuned"], "--json")
    body = json.loads(out)
    assert (code, body["verdict"], body["exit_code"]) == (3, "undecided", 3)
    edited(copies[1], lambda row: row.update(acc=0.0))
    assert run_cli(*line, copies[1])[0] == 1
    assert run_cli(*line, copies[1], logs["tuned"])[0] == 1


def test_ten_thousand_samples_take_a_second_and_no_torch(logs, tmp_path):
    for name in ("base", "tuned"):
        copy = Path(shutil.copytree(logs[name], tmp_path / name))
        (row, *_), n = rows(copy), 10_000
        many = (
            {
                **row,
                "doc_id": i,
                "doc_hash": f"{i}",
                "doc": "x" * 2000,
                "acc": (i + len(name)) % 9 > 2,
            }
            for i in range(n)
        )
        samples(copy).write_text("".join(json.dumps(each) + "\n" for each in many))
        body = json.loads(results(copy).read_text())
        body["n-samples"]["coins"]["effective"] = n
        results(copy).write_text(json.dumps(body))
    words = ["check", "--logs", str(tmp_path / "base"), str(tmp_path / "tuned"), "--json"]
    code = (
        "import sys; from basinscope import cli\n"
        f"try: cli.main({words})\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert json.loads(done.stdout.splitlines()[0])["changes"][0]["n"] == 10_000
    assert time.monotonic() - start < 10


class TestInspect:
    def test_its_reader_must_be_installed(self, tmp_path, monkeypatch):
        (tmp_path / "a.eval").write_bytes(b"")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(BasinscopeError, match=r"try: pip install 'basinscope\[inspect\]'"):
            read_logs(tmp_path)

    @pytest.fixture
    def inspected(self, tmp_path):
        """Logs of two models that Inspect itself has evaluated, in both formats."""
        pytest.importorskip("inspect_ai")
        from inspect_ai import Task, eval
        from inspect_ai.dataset import Sample
        from inspect_ai.scorer import match
        from inspect_ai.solver import solver

        def log(name, wrong, form, n=40, **options):
            @solver
            def says():
                async def solve(state, generate):
                    right = f"{state.sample_id}"
                    state.output.completion = "no" if state.sample_id in wrong else right
                    return state

                return solve

            data = [Sample(input=f"say {i}", target=f"{i}", id=i) for i in range(1, n + 1)]
            eval(
                Task(dataset=data, solver=says(), scorer=match(), name="echo", **options),
                model="mockllm/model", log_dir=str(tmp_path / name), log_format=form,
                display="none",
            )  # fmt: skip
            return tmp_path / name

        return log

    def test_logs_of_both_formats_are_compared(self, inspected):
        base = inspected("base", {1, 2}, "eval")
        tuned = inspected("tuned", {2, 3, 4, 5}, "json")
        (change,) = check_logs(base, tuned).changes
        assert (set(change.lost), change.gained) == ({"3", "4", "5"}, ("1",))
        assert (change.before, change.after, change.n) == (0.95, 0.9, 40)

    def test_other_documents_and_versions_and_cut_files_are_refused(self, inspected):
        base = inspected("base", set(), "eval")
        with pytest.raises(BasinscopeError, match=r"alone has 4 \(37, 38, 39, \.\.\.\)"):
            check_logs(base, inspected("short", set(), "eval", n=36))
        with pytest.raises(BasinscopeError, match=r"echo: version is 0 in .* and 2 in"):
            check_logs(base, inspected("later", set(), "json", version=2))
        (file,) = inspected("cut", set(), "eval").glob("*.eval")
        file.write_bytes(file.read_bytes()[:400])
        with pytest.raises(BasinscopeError, match=r"is cut off or damaged"):
            check_logs(base, file)
        with pytest.raises(BasinscopeError, match="several epochs"):
            check_logs(base, inspected("twice", set(), "json", epochs=2))
