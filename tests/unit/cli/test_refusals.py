"""What is refused before a model is loaded: one line, exit code 2, and nothing is written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toys

REFUSED: dict[str, tuple[str, str]] = {
    # numbers
    "no draws": ("landscape m --draws 0 --steps 0,1", r"draws=0; allowed: at least 1"),
    "negative draws": ("landscape m --draws=-3", r"draws=-3; allowed: at least 1"),
    "draws of a word": ("landscape m --draws x", r"--draws.*x"),
    "no workers": ("landscape m --workers 0", r"workers=0; allowed: at least 1"),
    "negative workers": ("surface m --workers=-1", r"workers=-1; allowed: at least 1"),
    "workers of certify": ("certify m --workers 0", r"workers=0; allowed: at least 1"),
    "workers of strict": ("strict-basin m --workers 0", r"workers=0; allowed: at least 1"),
    "no limit": ("landscape m --limit 0", r"limit=0; allowed: at least 1"),
    "negative limit": ("certify m --limit=-1", r"limit=-1; allowed: at least 1"),
    "limit of attack": ("attack m --limit 0", r"limit=0; allowed: at least 1"),
    "level": ("landscape m --level 2", r"level=2.0; allowed: between 0 and 1"),
    "outcomes": ("landscape m --outcomes 0", r"outcomes=0.*allowed: at least 1"),
    "interpolate": (
        "landscape m -d to:other --interpolate 1",
        r"--interpolate 1 .*: at least 2",
    ),
    # steps and sigmas
    "steps": ("landscape m --steps 0:1", r"steps '0:1'; allowed: LO:HI:N .*--steps -0.03:0.03:13"),
    "steps backwards": ("landscape m --steps 1:0:3", r"steps '1:0:3'; allowed: LO:HI:N"),
    "no steps": ("landscape m --steps ,", r"steps ','; allowed: LO:HI:N"),
    "steps that are not finite": ("landscape m --steps 0,inf", r"steps '0,inf'; allowed: LO:HI:N"),
    "positions": ("surface m --xs 1:0:3", r"xs '1:0:3'; allowed: LO:HI:N .*--xs -0.03"),
    "sigmas": ("strict-basin m --sigmas a", r"sigmas 'a'; allowed: LO:HI:N"),
    "sigmas twice": ("strict-basin m --sigmas 1,1", r"sigmas=\[1.0, 1.0\]; .*all different"),
    "no sigma": ("certify m --sigma 0", r"sigma=0.0; allowed: above 0"),
    "negative sigma": ("certify-tokens m --sigma=-1", r"sigma=-1.0; allowed: above 0"),
    "confidence": ("certify m --confidence 99", r"confidence=99.0; allowed: between 0 and 1"),
    "claim": ("certify m --claim 0.9999 --draws 9", r"draws=9 cannot certify .*at least \d+ draws"),
    "too few draws": ("strict-basin m --draws 3", r"draws=3 cannot show .*at least 44 draws"),
    "seed": ("certify m --seed=-1", r"seed=-1"),
    "mode": ("certify-tokens m --mode suffix", r"suffix"),
    "starts": ("attack m --starts 0", r"starts=0; allowed: at least one start"),
    "radius": ("attack m --radius 0", r"radius=0.0; allowed: a norm above 0"),
    "rate of the proxy": (
        "attack m --method proxy --lr=-1",
        r"lr=-1.0; allowed: finite",
    ),
    "learning rate": ("finetune m --data d.jsonl --lr 0", r"lr=0.0; allowed: finite"),
    "no batch": ("finetune m --data d.jsonl --batch 0", r"batch=0; allowed: at least 1"),
    "rank": ("finetune m --data d.jsonl --method lora --set lora_r=0", r"lora_r=0, lora_alpha=32"),
    "draws of a verdict": ("verdict cert quantised:8 --draws=-1", r"draws=-1"),
    # words
    "task": ("landscape m -t basic,codee", r"task 'codee'; allowed: mini, .*try: code\b"),
    "no task": ("landscape m -t ,", r"task ''; allowed: mini"),
    "two tasks": ("certify m -t basic,math", r"2 tasks \(basic, math\); allowed: one"),
    "code": ("landscape m -t humaneval", r"generated code was not allowed.*--allow-code-execution"),
    "missing text": ("landscape m -t nll:gone.txt", r"no text 'gone.txt'"),
    "missing data": ("landscape m -t mmlu --data-dir data", r"data"),
    "attacked": ("attack m -t bassic", r"objective 'bassic', .*try: basic"),
    "attacked group": ("attack m -t mini", r"4 tasks \(basic, math, code, safety\); allowed: one"),
    "without a reference": ("attack m -t safety", r"'safety' has no reference answer"),
    "measured": ("attack m --measure mth", r"task 'mth'; allowed: .*try: math"),
    "method": ("attack m --method x", r"--method.*x"),
    "direction": (
        "landscape m -d sideways",
        r"direction 'sideways'; allowed: random\[:INTEGER\], layerwise\[:INTEGER\], to",
    ),
    "near direction": ("landscape m -d rndom:1", r"direction 'rndom:1'; .*try: random"),
    "no model of a direction": ("landscape m -d to:", r"direction 'to:'; allowed: .*to:MODEL"),
    "folder of a direction": ("landscape m -d to:./gone", r"no model at './gone'"),
    "folders of a merge": ("landscape m -d merge:./gone+other", r"no model at './gone'"),
    "adapter": ("landscape m -d adapter:/no/such", r"no adapter at '/no/such'"),
    "file of a direction": ("landscape m -d saved:gone", r"no file at 'gone'"),
    "bits": ("landscape m -d quantised:99", r"bits=99"),
    "fraction": ("landscape m -d pruned:2", r"fraction=2.0"),
    "direction of a plane": (
        "surface m -x nosuch",
        r"direction 'nosuch'; allowed: random\[:INTEGER\], layerwise\[:INTEGER\], to",
    ),
    "one direction twice": (
        "surface m -x random:1",
        r"'random:1'\]; .*each once",
    ),
    "cosines of one": ("cosines m -d random", r"\['random'\]; allowed: two or more"),
    "judged": ("verdict cert ./gone", r"no model at 'to:./gone'|no model at './gone'"),
    "nothing to judge": ("verdict cert", r"0 others"),
    "geometry": ("certify m --geometry sphere", r"geometry 'sphere'; allowed: isotropic, rms"),
    "near geometry": ("certify m --geometry parms:x", r"try: params"),
    "expression": ("certify m --geometry params:(", r"'\(' is not a regular expression"),
    "basis": ("strict-basin m --geometry subspace:gone", r"no file at 'gone'"),
    "data": ("finetune m --data ./gone.json", r"data './gone.json': there is nothing"),
    "no data": ("finetune m", r"neither data nor a recipe; allowed: a file"),
    "recipe": ("finetune m --recipe safty", r"recipe 'safty'; allowed: .*try: safety"),
    "malformed data": ("finetune m --data bad.jsonl", r"bad.jsonl, line 1: "),
    "study": ("widen twin-1", r"no recipe 'twin-1'; allowed: .*try: twin-1m"),
    "dtype": ("landscape m --dtype int4", r"dtype 'int4'; allowed: auto, bfloat16"),
    "device": ("landscape m --device toaster", r"device 'toaster'; allowed: auto, cpu"),
    "way to load": ("landscape m --load revison=x", r"--load revison=x; .*try: revision"),
    "flag to load": ("landscape m --load trust_remote_code=x", r"another value of trust_remote"),
    "budget": ("landscape m --load token_budget=few", r"another value of token_budget"),
    "setting": (
        "finetune m --recipe safety --set warm=1",
        r"--set warm=1; .*try: warmup",
    ),
    "model": ("landscape ./gone", r"no model at './gone': there is nothing"),
    "not a GGUF file": ("landscape fake.gguf", r"fake.gguf is not a GGUF file"),
    # options that do nothing there
    "outcomes with steps": (
        "landscape m --outcomes 5 --steps 0,1",
        r"--outcomes 5 with fixed",
    ),
    "grid with steps": ("landscape m --grid --steps 0,1", r"grid=True with steps"),
    "interpolated steps": (
        "landscape m -d to:other --interpolate 3 --steps 0,1",
        r"with one -d to:MODEL",
    ),
    "interpolated twice": (
        "landscape m -d to:other -d random --interpolate 3",
        r"with one -d to:MODEL",
    ),
    "rate without the proxy": ("attack m --lr 1", r"--lr with --method pga; allowed: .*proxy"),
    "starts of the proxy": ("attack m --method proxy --starts 2", r"--starts with --method proxy"),
    "rank without LoRA": (
        "finetune m --data d.jsonl --set lora_r=4",
        r"lora_r with --method full; allowed: .*lora",
    ),
    "target alone": ("finetune m --data d.jsonl --target 0.5", r"target=0.5 without stay_within"),
    "epochs and steps": ("finetune m --data d.jsonl --epochs 1 --steps 2", r"allowed: only one"),
    "per item with a claim": ("certify m --per-item --claim 0.5", r"per_item, .*claim=0.5"),
    "no such option": ("landscape m --nosuch 1", r"Unknown option"),
    # folders
    "foreign folder": ("landscape m --run mine", r"mine is not empty.*another --run"),
    "foreign folder of attack": ("attack m --run mine", r"mine is not .*another --run"),
    "foreign folder of finetune": (
        "finetune m --data d.jsonl --run mine",
        r"mine is not empty.*another --run",
    ),
    "file as a folder": ("surface m --run text.txt", r"text.txt is a file"),
    "below a file": ("landscape m --run text.txt/x", r"cannot .*text.txt"),
    "another kind": ("landscape m --run cert", r"cert holds a certificate"),
    "another kind of certificate": ("strict-basin m --run cert", r"cert holds a certificate"),
    "no certificate": ("verdict mine quantised:8", r"mine is not a run folder"),
    "certificate to stay within": (
        "finetune m --data d.jsonl --stay-within mine",
        r"mine is not a run folder",
    ),
    "corrupt header": ("landscape m --run corrupt", r"corrupt/run.json is corrupt"),
    "later format": ("landscape m --run later", r"later"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Files and folders to stumble over."""
    import basinscope as bs
    from basinscope.certify import certify
    from basinscope.tasks import CallableTask

    place = tmp_path_factory.mktemp("folders")
    task = CallableTask("always", lambda m: [1] * 10, n_items=10)
    layer = torch.nn.Linear(4, 1, bias=False)
    certify(bs.load(layer), task, draws=40, confidence=0.9, run=place / "cert")
    (place / "mine").mkdir()
    (place / "mine" / "thesis.tex").write_text("do not lose me")
    (place / "other").mkdir()
    (place / "data").mkdir()
    (place / "text.txt").write_text("hello")
    (place / "bad.jsonl").write_text("{broken\n")
    (place / "d.jsonl").write_text(json.dumps({"instruction": "a", "output": "b"}) + "\n")
    (place / "fake.gguf").write_bytes(b"GGML" + bytes(100))
    for name in ("corrupt", "later"):
        shutil.copytree(place / "cert", place / name)
    (place / "corrupt" / "run.json").write_text("{")
    header = json.loads((place / "later" / "run.json").read_text())
    (place / "later" / "run.json").write_text(json.dumps(header | {"format": 99}))
    return place


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_before_a_model_is_loaded(case, folders, run_cli, monkeypatch):
    def loaded(*arguments, **options):
        raise AssertionError("a model was loaded")

    for engine in ("base.Engine", "transformers.TransformersEngine"):
        monkeypatch.setattr(f"basinscope.engines.{engine}.__init__", loaded)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loaded)
    monkeypatch.delenv("BASINSCOPE_DATA", raising=False)
    monkeypatch.chdir(folders)
    line, message = REFUSED[case]
    before = files(folders)
    error = run_cli(*line.split()).error
    assert re.search(message, error), error
    assert re.fullmatch(r"error: .+; allowed: .+; try: .+\n", error)
    assert files(folders) == before


def test_a_folder_that_cannot_be_written(folders, run_cli, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    error = run_cli("landscape", "m", "--run", folders / "new").error
    assert re.search(r"cannot write to \S+/new \(\S+ is not writable\); allowed: ", error)


@pytest.mark.parametrize("command", ["report", "landscape"])
def test_a_finished_run_that_cannot_be_written_is_shown(command, run_cli, tmp_path, monkeypatch):
    toys.tiny_model().save_pretrained(tmp_path / "m")
    toys.tiny_tokenizer().save_pretrained(tmp_path / "m")
    run, plan = tmp_path / "run", ("-t", "basic", "--limit", 2, "--steps", 0, "--workers", 1)
    line = ("landscape", tmp_path / "m", *plan, "--run", run)
    table = run_cli(*line).out
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("basinscope.report.page.write", _refuse)
    monkeypatch.setattr("basinscope.report.landscapes.plot_landscapes", _refuse)
    again = run_cli(*((command, run) if command == "report" else line))
    assert again.code == 0
    assert "the page could not be made: it is read-only" in again.out
    assert next(row for row in table.splitlines() if row.startswith("- ")) in again.out


def _refuse(*_):
    raise OSError("it is read-only")


def test_it_takes_less_than_three_seconds(folders):
    """On an idle core; the bound is for a suite beside it."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "basinscope.cli", "landscape", "smollm2", "--draws", "0"],
        cwd=folders, capture_output=True, text=True, check=False, timeout=60, env=os.environ,
    )  # fmt: skip
    taken = time.monotonic() - start
    assert done.returncode == 2
    assert done.stderr.startswith("error: draws=0; ")
    assert taken < 60, f"{taken:.1f} s"
