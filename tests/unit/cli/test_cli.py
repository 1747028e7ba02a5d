"""The command line: what it takes, what it prints where, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import basinscope as bs
from basinscope import cli


@pytest.fixture
def line(checkpoint):
    """A line that works; options given later than once are replaced."""
    options = {
        "--tasks": "basic,safety", "--limit": 3, "--draws": 1, "--steps": "0,0.02", "--workers": 1,
        "--run": "x",
    }  # fmt: skip

    def make(model=checkpoint, **changes):
        changed = options | {f"--{k}": v for k, v in changes.items()}
        flat = [word for option, value in changed.items() for word in (option, value)]
        return ["landscape", model, *flat]

    return make


@pytest.fixture
def finished(line, run_cli, no_figure):
    """Run folder of the line."""
    assert run_cli(*line()).code == 0
    return Path("x").resolve()


def strict(text: str):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


# --- what works ---------------------------------------------------------------------------------


def test_landscape_prints_a_table_and_writes_the_run(line, run_cli):
    ended = run_cli(*line())
    assert ended.code == 0
    assert "Basin half-width at level 0.5" in ended.out
    for word in (
        "basic",
        "safety",
        "random +",
        "picture: x/figures/landscape.png",
        "x/report.html",
    ):
        assert word in ended.out
    why, plan = ended.err.splitlines()[:2]
    assert why.startswith("dtype bfloat16: its products are ")
    assert plan.startswith("2 settings of the weights x 6 items = 12 evaluations, ")
    assert re.search(r"tokens read and [\d,]+ written, about \d+\.\d min on \d worker", ended.err)
    assert "4/4" in ended.err
    files = {str(p.relative_to("x")) for p in Path("x").rglob("*") if p.is_file()}
    assert {name for name in files if not name.startswith("trials")} == {
        "run.json", "report.html", "figures/landscape.png", "figures/landscape.pdf",
        "figures/landscape.csv", "figures/likelihood.png", "figures/likelihood.csv",
    }  # fmt: skip
    assert len([name for name in files if name.startswith("trials")]) == 4


@pytest.mark.parametrize("steps", ["0,0.02", None], ids=["steps", "search"])
def test_a_dry_run_says_what_it_takes_and_writes_nothing(steps, line, run_cli):
    words = line()
    place = words.index("--steps")
    words[place : place + 2] = ["--steps", steps] if steps else []
    ended = run_cli(*words, "--dry-run")
    assert ended.code == 0
    n = 2 if steps else 19
    told = (
        "2 settings of the weights x 6 items = 12 evaluations"
        if steps
        else "the edges are searched: roughly 19 settings of the weights and 114 evaluations"
    )
    assert ended.out.startswith(told)
    assert re.search(r"[\d,]+ tokens read and [\d,]+ written, about \d+\.\d min on", ended.out)
    assert not Path("x").exists()
    told = strict(run_cli(*words, "--dry-run", "--json").out)
    assert told["settings"] == n
    assert told["evaluations"] == 6 * n
    assert told["searched"] is (steps is None)
    assert told["seconds"] > 0
    assert told["read_tokens"] > 0 < told["written_tokens"]


@pytest.mark.usefixtures("no_figure")
def test_running_the_line_again_resumes_it(line, run_cli):
    run_cli(*line())
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in Path("x/trials").iterdir()}
    ended = run_cli(*line())
    assert ended.code == 0
    assert "4 of 4 trials are there already" in ended.err
    after = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in Path("x/trials").iterdir()}
    assert after == before
    wider = run_cli(*line(steps="-0.02,0.02", draws=2))
    assert "6 of 10 trials" not in wider.err
    assert "4 of 10 trials are there already" in wider.err
    assert len(list(Path("x/trials").iterdir())) == 10


@pytest.mark.usefixtures("no_figure")
def test_json_is_one_object_on_standard_output(line, run_cli):
    ended = run_cli(*line(), "--json")
    assert ended.code == 0
    assert ended.out.count("\n") == 1
    found = strict(ended.out)
    assert found["trials"] == 4
    assert found["run"] == "x"
    assert found["figure"] == "x/figures/landscape.png"
    assert {row["task"] for row in found["widths"]} == {"basic", "safety"}
    assert "evaluations" in ended.err


@pytest.mark.usefixtures("no_figure")
def test_several_directions_and_one_side(line, run_cli):
    ended = run_cli(*line(tasks="basic", steps="-0.02"), "-d", "random", "-d", "random:1", "--json")
    sides = [(row["direction"], row["sign"]) for row in strict(ended.out)["widths"]]
    assert sides == [("random", -1), ("random:1", -1)]


@pytest.mark.usefixtures("no_figure")
def test_step_zero_alone(line, run_cli):
    ended = run_cli(*line(steps="0"))
    assert ended.code == 0
    assert "basic: nothing but step 0 was measured" in ended.out


@pytest.mark.usefixtures("no_figure")
def test_search_without_steps(line, run_cli):
    words = line(tasks="safety")
    at = words.index("--steps")
    ended = run_cli(*words[:at], *words[at + 2 :])
    assert ended.code == 0
    assert "the edges are searched: roughly 19 settings of the weights and " in ended.err
    grid = run_cli(*words[:at], *words[at + 2 :], "--grid", "--outcomes", 2)
    assert grid.code == 0
    assert "roughly 59 settings" in grid.err
    assert len({t.step for t in bs.load_run("x").trials if t.whole}) >= 41


@pytest.mark.model
def test_the_default_search_on_the_packaged_model_ends_in_its_table(run_cli, smollm2):
    """`basinscope landscape smollm2 -t basic`, on fewer items and draws to be quick."""
    words = ["landscape", "smollm2", "-t", "basic", "--limit", 16, "--draws", 2, "--outcomes", 16]
    ended = run_cli(*words, "--workers", 1, "--run", "x")
    assert ended.code == 0
    assert "Basin half-width at level 0.5" in ended.out
    assert "x/report.html" in ended.out
    land = bs.load_run("x")
    row = land.widths().iloc[0]
    assert 0.005 < row["width"] < 0.06
    assert any(not t.whole for t in land.trials), "some points were stopped early"
    page = Path("x/report.html").read_text()
    assert "the variance between directions of basic along random could not be made" in page
    assert 'alt="Scores and half-widths at each step"' in page


def test_a_run_that_cannot_be_written_to_is_printed(line, run_cli, monkeypatch):
    assert run_cli(*line()).code == 0

    def read_only(*_args, **_options):
        raise bs.BasinscopeError("cannot write x (Read-only file system)", "a folder", "another")

    monkeypatch.setattr("basinscope.report.landscapes.landscape_page", read_only)
    ended = run_cli(*line())
    assert ended.code == 0
    assert "Basin half-width at level 0.5" in ended.out
    assert "the page could not be made: cannot write x (Read-only file system)" in ended.out
    assert "the page could not be made" in strict(run_cli(*line(), "--json").out)["missing"][0]


@pytest.mark.parametrize("part", ["widths_table", "notes"])
def test_a_table_that_cannot_be_made_takes_nothing_with_it(
    line, run_cli, no_figure, part, monkeypatch
):
    def fail(*_args, **_options):
        raise ValueError("a fault of ours")

    monkeypatch.setattr(f"basinscope.report.text.{part}", fail)
    ended = run_cli(*line())
    assert ended.code == 0
    assert "could not be made: ValueError('a fault of ours')" in ended.out
    assert "x/report.html" in ended.out
    assert ("Basin half-width" in ended.out) is (part == "notes")


@pytest.mark.usefixtures("no_figure")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--outcomes", 5], "--outcomes 5 with fixed steps; allowed: where the edges are searched"),
        (["--grid"], "grid=True with steps=.* without steps"),
    ],
)
def test_options_of_the_search_with_fixed_steps(line, run_cli, options, message):
    assert re.search(message, run_cli(*line(), *options).error)


@pytest.mark.usefixtures("no_figure")
@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("Qwen2.5-7B", "runs/Qwen2.5-7B"),
        ("models/tiny.v1/", "runs/tiny.v1"),
        ("./a.gguf.d", "runs/a.gguf.d"),
        (".", None),
    ],
)
def test_run_folder_is_named_after_the_model(model, folder, checkpoint, line, run_cli):
    target = Path(model)
    shutil.copytree(checkpoint, target, dirs_exist_ok=True)
    words = line(model, tasks="basic")
    at = words.index("--run")
    ended = run_cli(*words[:at], *words[at + 2 :], "--json")
    assert strict(ended.out)["run"] == (folder or f"runs/{Path.cwd().name}")


def test_status(finished, run_cli, checkpoint):
    ended = run_cli("status", finished)
    assert ended.code == 0
    assert f"landscape of {checkpoint} (24,128 parameters, bfloat16)" in ended.out
    assert "basic: 2 trials of 3 items at 2 steps" in ended.out
    assert ended.err == ""
    found = strict(run_cli("status", finished, "--json").out)
    assert found["trials"] == 4


@pytest.fixture
def base_model(checkpoint, tmp_path):
    """A checkpoint without a chat template."""
    folder = shutil.copytree(checkpoint, tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    return folder


def test_a_chat_that_is_asked_for_needs_a_template(run_cli, base_model, tmp_path):
    (tmp_path / "data/gsm8k").mkdir(parents=True)
    row = json.dumps({"question": "1+1?", "answer": "#### 2"}) + "\n"
    for split in ("train", "test"):
        (tmp_path / f"data/gsm8k/{split}.jsonl").write_text(row * 5)
    words = ["landscape", base_model, "-t", "basic,gsm8k-chat", "--data-dir", "data", "--steps", 0]
    error = run_cli(*words, "--workers", 1).error
    assert re.search(
        r"base' has no chat template.*allowed: .*leave out the tasks with @chat", error
    )
    assert not Path("runs").exists()


def test_a_chat_that_may_be_plain_says_so(run_cli, line, base_model, no_figure):
    ended = run_cli(*line(base_model, steps="0", tasks="basic,safety"))
    assert ended.code == 0
    assert "; no chat template: plain prompts for safety\n" in ended.err.replace("\n ", " ")
    assert "template" not in run_cli(*line(base_model, steps="0", tasks="basic", run="z")).err


def test_strata(run_cli, no_figure, checkpoint, tmp_path):
    rows = [["id", "prompt", "type", "label", "focus", "note"]]
    rows += [[str(i), f"Ask {i}?", f"kind{i % 2}", "safe", "", ""] for i in range(3)]
    (tmp_path / "data/xstest").mkdir(parents=True)
    text = "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "data/xstest/xstest_prompts.csv").write_text(text)
    words = ["landscape", checkpoint, "-t", "xstest,basic", "--data-dir", "data", "--limit", 3]
    assert run_cli(*words, "--steps", "0", "--workers", 1, "--run", "y").code == 0
    ended = run_cli("strata", "y", "xstest")
    assert ended.code == 0
    names = [line.split()[2] for line in ended.out.splitlines()[1:]]
    assert names == ["kind0", "kind1", "(macro"]
    found = strict(run_cli("strata", "y", "xstest", "--json").out)
    assert [row["n"] for row in found["strata"]] == [2, 1, 3]
    assert "have no strata" in run_cli("strata", "y", "basic").error
    assert "at 0.5; allowed: 0" in run_cli("strata", "y", "xstest", "--step", 0.5).error


def test_verify_then_set_aside_then_measured_again(finished, line, run_cli):
    ended = run_cli("verify", finished)
    assert (ended.code, ended.out, ended.err) == (0, "4 records verified\n", "")
    bad = sorted((finished / "trials").iterdir())[0]
    good = bad.read_bytes()
    bad.write_bytes(good[:-1])
    error = run_cli("verify", finished).error
    assert "1 of 4 records did not verify" in error
    assert bad.name in error
    assert "run the line again" in error
    assert run_cli("verify", finished).out == "3 records verified\n"
    assert run_cli(*line()).code == 0
    assert bad.read_bytes() == good


def test_report_of_one_run(finished, run_cli):
    (finished / "report.html").unlink()
    ended = run_cli("report", finished)
    assert ended.out.split("\n")[0].strip().startswith("Basin half-width at level 0.5")
    assert ended.out.endswith(f"report:  {finished}/report.html\n")
    assert (finished / "report.html").exists()


def test_report_of_several_runs_with_the_same_name(finished, run_cli):
    shutil.copytree(finished, "other/x")
    ended = run_cli("report", finished, "other/x")
    assert ended.out == f"{finished}/figures/overlay.png\n"
    table = (finished / "figures" / "overlay.csv").read_text()
    assert f",{finished}\n" in table
    assert ",other/x\n" in table
    ended = run_cli("report", finished, "--figure", "one.svg")
    assert ended.out == "one.svg\n"
    assert Path("one.svg").exists()
    assert "different" in run_cli("report", finished, finished).error
    assert "allowed: a .png" in run_cli("report", finished, "--figure", "one.jpg").error


def test_help_and_version(run_cli):
    assert run_cli("--version").out == f"{bs.__version__}\n"
    for words in ((), ("--help",), ("landscape", "--help")):
        ended = run_cli(*words)
        assert ended.code == 0
        assert "Usage: basinscope" in ended.out
    assert "merge:0.3*A+0.7*B" in "".join(ended.out.split())  # not taken for markup


# --- the command line is frozen: change it on purpose -------------------------------------------

TASKS = {
    "--tasks -t": "mini", "--limit": None, "--data-dir": None, "--allow-code-execution": False,
}  # fmt: skip
TASK = TASKS | {"--tasks -t": "basic"}
LOAD = {"--device": "auto", "--load": None}
MODEL = LOAD | {"--dtype": "auto"}
OUTPUT = {"--run": None, "--json": False, "--track": None}
PLANNED = OUTPUT | {"--dry-run": False}
RUN = PLANNED | {"--workers": None}
NOISE = {"MODEL": "required", "--confidence": 0.99, "--seed": 0} | TASK | MODEL
COMMANDS = {
    "check": {
        "BASE": "required", "TUNED": None, "--allow": 0.02, "--on": None, "--confidence": 0.95,
        "--margin": False, "--beside": None, "--text": None, "--logs": False,
         "--junit": None, "--markdown": None, "--card": None,
        "--tasks -t": "mini", "--limit": None, "--data-dir": None,
        "--allow-code-execution": False, "--device": "auto", "--load": None, "--dtype": "auto",
        "--run": None, "--json": False, "--track": None, "--dry-run": False, "--workers": None,
    },
    "fingerprint": {
        "MODEL": "required", "OTHER": None, "--dtype": "bfloat16", "--json": False,
        "--device": "auto", "--load": None,
    },
    "landscape": {
        "MODEL": "required", "--direction -d": None, "--draws": None, "--budget": None,
        "--precision": None, "--steps": None, "--interpolate": None, "--grid": False,
        "--outcomes": None, "--level": 0.5,
    } | TASKS | MODEL | RUN,
    "surface": {
        "MODEL": "required", "--x -x": "random", "--y -y": "random:1", "--xs": "-0.03:0.03:7",
        "--ys": "-0.03:0.03:7", "--orthogonal": False, "--trajectory": None,
    } | TASKS | MODEL | RUN,
    "cosines": {
        "MODEL": "required", "--direction -d": None, "--run": None, "--figure": None,
        "--json": False,
    } | MODEL,
    "certify": {
        "--sigma": 0.005, "--draws": 200, "--items-per-draw": 8, "--claim": None, "--target": None,
        "--antithetic": False, "--per-item": False, "--geometry": "isotropic",
    } | NOISE | RUN,
    "strict-basin": {
        "--sigmas": "0.005", "--share": 0.9, "--tau": 0.0, "--lost": "score", "--failures": 0,
        "--draws": None, "--geometry": "isotropic",
    } | NOISE | RUN,
    "certify-tokens": {
        "--mode": "position", "--sigma": 0.05, "--draws": 200, "--target": 0.5,
    } | NOISE | PLANNED,
    "verdict": {
        "RUN": "required", "OTHERS": None, "--draws": 0, "--target": None, "--data-dir": None,
        "--allow-code-execution": False, "--json": False,
    } | LOAD,
    "attack": {
        "MODEL": "required", "--measure": None, "--steps": None, "--seed": 0, "--radius": None,
        "--starts": None, "--method": "pga", "--inside": False, "--level": 0.5,
        "--compute": "bfloat16", "--lr": None, "--pull": None,
    } | TASK | {"--limit": 48} | MODEL | OUTPUT,
    "finetune": {
        "MODEL": "required", "--data": None, "--recipe": None, "--method": "full",
        "--epochs": None, "--steps": None, "--batch": None, "--lr": None, "--set": None,
        "--seed": 0, "--limit": None, "--stay-within": None, "--target": None, "--data-dir": None,
        "--resume --no-resume": True,
    } | MODEL | OUTPUT,
    "widen": {
        "RECIPE": "required", "--only": None, "--data-dir": None, "--device": "auto",
    } | PLANNED,
    "compare": {
        "RUN": "required", "OTHERS": None, "--output -o": None, "--figure": None,
        "--reference": None, "--confidence": 0.95, "--json": False,
    },
    "demo": {"--run": Path("runs/demo"), "--json": False},
    "report": {
        "RUN": "required", "OTHERS": None, "--level": 0.5, "--figure": None, "--rms": False,
        "--draws": False, "--loss": False,
    },
    "status": {"RUN": "required", "--json": False},
    "strata": {"RUN": "required", "TASK": "required", "--step": 0.0, "--json": False},
    "verify": {"RUN": "required"},
}  # fmt: skip


def test_the_command_line_is_frozen():
    defaults = {}
    for command in cli.app:
        if command.startswith("-"):
            continue
        arguments = cli.app[command].assemble_argument_collection(
            default_parameter=cli.app.default_parameter
        )
        defaults[command] = {
            " ".join(a.names): "required" if a.required
            else None if a.field_info.default is a.field_info.empty
            else a.field_info.default
            for a in arguments
            if a.names != ("*",)  # options that commands share, which follow by themselves
        }  # fmt: skip
    assert defaults == COMMANDS
    assert set(cli.app) - set(COMMANDS) == {"--help", "-h", "--version"}
    options = [[name for name in words if name.startswith("-")] for words in defaults.values()]
    assert max(map(len, options)) <= 22


# --- steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("0:0.03:4", [0.0, 0.01, 0.02, 0.03]),
        ("-0.03:0.03:3", [-0.03, 0.0, 0.03]),
        ("0:1:2", [0.0, 1.0]),
        ("-1e-3:1e-3:5", [-0.001, -0.0005, 0.0, 0.0005, 0.001]),
        ("0.1", [0.1]),
        ("-0.1, 0,.2", [-0.1, 0.0, 0.2]),
    ],
)
def test_good_steps(text, steps):
    assert cli.parse_steps(text) == steps


BAD_STEPS = [
    "", ",", "a", "0:1", "0:1:1", "0:1:0", "0:1:-3", "0:1:2.5", "1:0:3", "1:1:3", "0:1:2:3", "::",
    "0,,1", "0,nan", "inf", "nan:1:3", "0:inf:3", "-inf:0:3", "0:1:100000000000", "0;1", "0:1:x",
    "0,1:2:3",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_STEPS)
def test_bad_steps(text):
    with pytest.raises(bs.BasinscopeError, match=f"^steps {re.escape(repr(text))}; allowed: LO:HI"):
        cli.parse_steps(text)


# --- the user's errors: one line, exit code 2 ---------------------------------------------------

WRONG = {
    "model folder": ({"model": "./nosuch"}, [r"no model at './nosuch'", "has no 'nosuch'"]),
    "model word": ({"model": "nosuch"}, [r"cannot load the model 'nosuch'", "allowed: smollm2"]),
    "hub id": ({"model": "org/nosuch"}, [r"the model 'org/nosuch'", "no folder is called so"]),
    "empty folder": ({"model": "empty"}, [r"cannot load the model 'empty'", "allowed: smollm2"]),
    "gguf": ({"model": "fake.gguf"}, [r"fake.gguf is not a GGUF file", "allowed: a .gguf"]),
    "text file": ({"model": "text.txt"}, [r"text.txt is not a GGUF file", "allowed: a .gguf"]),
    "NaN weights": ({"model": "nan"}, [r"weights of \S+ are not finite", "check the checkpoint"]),
    "task": ({"tasks": "basic,nosuch"}, ["task 'nosuch'", "allowed: mini, basic", "by commas"]),
    "no task": ({"tasks": ""}, ["task ''", "allowed: mini, basic"]),
    "code": ({"tasks": "humaneval"}, ["generated code was not allowed", "--allow-code-execution"]),
    "direction": (
        {"direction": "sideways"},
        ["direction 'sideways'", r"allowed: random\[:INTEGER\], layerwise\[:INTEGER\], to"],
    ),
    "no model": ({"direction": "to:"}, ["direction 'to:'", "to:MODEL"]),
    "model of direction": ({"direction": "to:./nosuch"}, ["no model at './nosuch'", "has no"]),
    "own weights": ({"direction": "to:self"}, ["to:self has the same weights as the model"]),
    "NaN": ({"direction": "to:nan"}, [r"to:nan: \S+ is not finite", "diverged"]),
    "empty": ({"direction": "to:empty"}, ["empty holds no weights", "model.safetensors"]),
    "shapes": ({"direction": "to:other"}, ["lacks 16 of 16 parameters", "same architecture"]),
    "adapter": ({"direction": "adapter:empty"}, ["not an adapter", "to:empty"]),
    "file": ({"direction": "saved:nosuch"}, ["no file at 'nosuch'", "has no 'nosuch'"]),
    "text": ({"direction": "saved:text.txt"}, ["cannot read text.txt", "safetensors"]),
    "bits": ({"direction": "quantised:99"}, ["bits=99", "2 to 16"]),
    "no bits": ({"direction": "quantised:x"}, ["direction 'quantised:x'", "BITS"]),
    "merge": ({"direction": "merge:one"}, ["direction 'merge:one'", r"merge:A\+B"]),
    "fraction": ({"direction": "pruned:2"}, ["fraction=2.0", "at most 1"]),
    "seed": ({"direction": "random:x"}, ["direction 'random:x'", r"random\[:INTEGER\]"]),
    "steps": ({"steps": "0:1"}, ["steps '0:1'", "allowed: LO:HI:N", "try: --steps"]),
    "negative steps": ({"steps": "-1:x:3"}, ["steps '-1:x:3'", "allowed: LO:HI:N"]),
    "selection": (
        {"load": "params=nothing"},
        ["selects no parameter", "named like"],
    ),
    "expression": ({"load": "params=("}, [r"'\(' is not a regular expression", "allowed"]),
    "foreign folder": ({"run": "mine"}, ["mine is not empty", "another --run"]),
    "file as folder": ({"run": "text.txt"}, ["text.txt is a file", "another --run"]),
    "another run": ({"limit": 2}, ["x holds another run", "items of 'basic'", "another --run"]),
    "corrupt run": ({"run": "corrupt"}, [r"corrupt/run.json is corrupt", "delete run.json"]),
    "draws": ({"draws": "x"}, ["--draws", "'?\"?x'?\"?", "--help"]),
    "no draws": ({"draws": 0}, ["draws=0", "allowed: at least 1"]),
    "limit": ({"limit": 0}, ["limit=0", "allowed: at least 1"]),
    "level": ({"level": 2}, ["level=2", "allowed: between 0 and 1"]),
    "workers": ({"workers": 0}, ["workers=0", "allowed: at least 1"]),
    "dtype": ({"dtype": "int4"}, ["dtype 'int4'", "allowed: auto, bfloat16, float32, float16"]),
    "device": ({"device": "toaster"}, ["device 'toaster'", "allowed: auto, cpu, cuda"]),
    "option": ({"nosuch": 1}, ["Unknown option: --nosuch", "--help"]),
}


@pytest.fixture
def troubles(checkpoint, finished, tmp_path):
    """Folders and files to stumble over, in the working folder."""
    from safetensors.torch import load_file, save_file

    Path("empty").mkdir()
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("do not lose me")
    Path("fake.gguf").write_bytes(b"GGML" + bytes(100))
    Path("text.txt").write_text("hello")
    shutil.copytree(finished, "corrupt")
    Path("corrupt/run.json").write_text("{")
    shutil.copytree(checkpoint, "nan")
    Path("self").symlink_to(checkpoint)
    weights = load_file("nan/model.safetensors")
    Path("other").mkdir()
    save_file({f"x.y.{n}": t for n, t in weights.items()}, "other/model.safetensors")
    next(iter(weights.values())).view(-1)[3] = torch.nan
    save_file(weights, "nan/model.safetensors", metadata={"format": "pt"})
    return tmp_path


def files(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_users_errors_are_one_line_each(line, run_cli, troubles):
    before = files(troubles)
    for name, (changes, expected) in WRONG.items():
        ended = run_cli(*line(**changes))
        assert re.fullmatch(r"error: .+; allowed: .+; try: .+\n", ended.err), f"{name}: {ended.err}"
        assert ended.code == 2, name
        assert ended.out == "", name
        for pattern in expected:
            assert re.search(pattern, ended.err), f"{name}: {pattern!r} not in {ended.err}"
        assert "Traceback" not in ended.err
    assert files(troubles) == before, "no wrong line has changed anything"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(line, run_cli):
    assert (
        "device 'cuda', and torch sees no CUDA device; allowed: auto, cpu"
        in run_cli(*line(device="cuda")).error
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["landscape"], "MODEL requires an argument"),
        (["landscape", "a", "b"], "b"),
        (["landscape", "a", "--draws"], "--draws requires an argument"),
        (["nosuch"], 'Unknown command "nosuch".*check'),
        (["status"], "RUN requires an argument"),
        (["status", "."], r"\. is not a run folder .*allowed"),
        (["verify", "nosuch"], "nosuch is not a run folder .*allowed"),
        (["report", "nosuch"], "nosuch is not a run folder .*allowed"),
        (["report", "."], "is not a run folder"),
    ],
)
def test_other_wrong_lines(words, expected, run_cli):
    assert re.search(expected, run_cli(*words).error)


def test_non_runs_beside_a_run(finished, run_cli):
    assert "nosuch is not a run folder" in run_cli("report", finished, "nosuch").error
    (finished / "run.json").write_text("{}")
    for command in ("status", "verify", "report"):
        assert "run.json is corrupt" in run_cli(command, finished).error


def test_report_of_a_run_without_trials(finished, run_cli):
    shutil.rmtree(finished / "trials")
    assert "nothing to draw" in run_cli("report", finished, "--figure", "x.png").error
    assert run_cli("verify", finished).out == "0 records verified\n"


@pytest.mark.usefixtures("no_figure")
@pytest.mark.parametrize("after", [0, 4])
def test_disk_full(after, line, run_cli, monkeypatch):
    real, done = os.fsync, 0

    def fsync(handle):
        nonlocal done
        done += 1
        if done > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    ended = run_cli(*line())
    assert ended.code == 2
    assert ended.out == ""
    *before, last = ended.err.splitlines()
    assert re.match(r"error: cannot write x/\S+ \(No space left on device\).*same line again", last)
    assert not [text for text in before if "error" in text or "Traceback" in text]
    assert bool(before) == bool(after), "nothing but the error before the run has begun"
    # a file is synced and then its folder: run.json, one record, and the next fails
    assert len(list(Path("x").glob("trials/*.json"))) == (1 if after == 4 else 0)
    assert not list(Path("x").rglob(".draft-*"))


def test_disk_full_at_the_report(line, run_cli, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    ended = run_cli(*line())
    assert ended.code == 0, "what was measured is shown"
    assert "Basin half-width at level 0.5" in ended.out
    assert "picture:" not in ended.out
    page = Path("x/report.html").read_text()
    assert "the picture could not be made: cannot write x/figures/landscape.png" in page


# --- interrupts ---------------------------------------------------------------------------------


def test_interrupt_says_how_to_resume(line, run_cli, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(bs, "landscape", interrupted)
    words = line(run="a folder")
    ended = run_cli(*words)
    assert ended.code == 130
    assert ended.out == ""
    resume = ended.err.splitlines()[-1]
    assert resume.startswith("interrupted; what was measured is kept; to resume: basinscope ")
    again = shlex.split(resume.partition("to resume: ")[2])
    assert again == ["basinscope", *map(str, words)]


def test_a_reader_that_has_gone(finished, run_cli, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert run_cli("status", finished).code == 141


def test_real_interrupt_and_real_resume(line, tmp_path):
    """Two real processes: Control-C in the middle, then the line that it says, to the end."""
    words = [str(w) for w in line(steps="0.0001:0.02:400", tasks="basic,math,code", run="y")]
    python = [sys.executable, "-m", "basinscope.cli"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    options = {"cwd": tmp_path, "env": environment, "text": True}
    process = subprocess.Popen(
        [*python, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a shell's background job, as a suite may be, ignores interrupts, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )
    deadline = time.monotonic() + 120
    trials = tmp_path / "y" / "trials"
    while not list(trials.glob("*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("interrupted; what was measured is kept; to resume: ")
    measured = len(list(trials.iterdir()))
    assert 0 < measured < 1203, "in the middle"
    again = shlex.split(err.splitlines()[-1].partition("to resume: ")[2])
    assert again == ["basinscope", *words]
    again[again.index("0.0001:0.02:400")] = "0.0001,0.02"  # the end is not waited for
    done = subprocess.run(
        [*python, *again[1:], "--json"], capture_output=True, check=False, timeout=120, **options
    )
    assert done.returncode == 0, done.stderr
    assert strict(done.stdout)["trials"] >= measured
    assert "trials are there already" in done.stderr
