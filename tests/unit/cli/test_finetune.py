"""The command that fine-tunes: what it prints where, and how it ends."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import basinscope as bs
from basinscope import cli


@pytest.fixture
def line(checkpoint, tmp_path, monkeypatch, capsys):
    """Run a line that works, in an empty folder; options change it. Its code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    rows = [{"instruction": f"add {i}", "output": f"{i + 1}!"} for i in range(10)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    defaults = {"data": "data.jsonl", "run": "out", "steps": 4, "batch": 2, "lr": "1e-2"}

    def run_line(*flags: str, **changes: object) -> tuple[int, str, str]:
        words = ["finetune", str(checkpoint), *flags]
        for name, value in (defaults | changes).items():
            if value is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
        capsys.readouterr()
        code = 0
        try:
            cli.main(words)
        except SystemExit as end:
            code = int(end.code)
        return code, *capsys.readouterr()

    return run_line


def test_it_says_its_plan_before_and_the_direction_after(line):
    code, out, err = line()
    assert code == 0
    assert re.match(
        r"dtype \w+: its products are .*\n"
        r"4 steps of 2 examples: 0\.8 times over 10, about 0\.1 min on \d+ threads?\n",
        err,
    )
    assert "4/4" in err
    assert re.search(r"full fine-tune of \S+: 4 steps, out\n", out)
    assert re.search(r"displacement [\d.]+, loss [\d.]+ -> [\d.]+\n", out)
    assert out.endswith("direction: to:out\n")


def test_json_is_one_object_on_standard_output(line):
    code, out, err = line("--json", "--set", "save_every=2")
    assert code == 0
    assert out.count("\n") == 1
    found = json.loads(out)
    assert found["folder"] == "out"
    assert found["steps"] == len(found["losses"]) == 4
    assert found["checkpoints"] == ["out/checkpoints/step-000002"]
    assert found["direction"] == "to:out"
    assert err
    again = line("--json", "--set", "save_every=2")
    assert again == (0, out, "")


def test_lora_by_the_command_line(line):
    pytest.importorskip("peft")
    code, out, _ = line("--set", "lora_targets=c_attn,c_fc", "--set", "lora_r=2", method="lora")
    assert code == 0
    assert out.endswith("direction: adapter:out\n")


def test_what_was_left_out_is_printed(line):
    with Path("data.jsonl").open("a") as file:
        file.write(json.dumps({"instruction": "a" * 300, "output": "b"}) + "\n")
        file.write(json.dumps({"instruction": "a", "output": "", "id": 3}))
    _, out, _ = line()
    assert "data: 12 rows, 1 left out, 11 examples, 1 too long, 10 used\n" in out
    assert "- 1 of 12 rows left out: without a prompt or an answer (data.jsonl, line 12)\n" in out
    assert "- columns not read: id\n" in out
    assert "- 1 of 11 examples left out: longer than 256 tokens (data.jsonl, line 11)\n" in out


def test_an_adapter_is_no_model_and_says_what_to_do(line):
    pytest.importorskip("peft")
    assert line("--set", "lora_targets=c_attn", method="lora", run="tuned")[0] == 0
    with pytest.raises(bs.BasinscopeError, match=r"'tuned' is an adapter, .*-d adapter:tuned"):
        bs.load("tuned")


WRONG = {
    "hub": ({"data": "org/nosuch"}, "org/nosuch could not be loaded from the Hugging Face hub"),
    "diverging": ({"lr": 1e30}, "training diverged: the loss was not finite after 1 of 4 steps"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_users_errors_are_one_line_and_code_2(line, case):
    changes, message = WRONG[case]
    code, out, err = line(**changes)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"error: {message}")
    if case != "diverging":  # which has shown its plan
        assert err == last + "\n"


def test_a_malformed_line_is_named(line):
    with Path("data.jsonl").open("a") as file:
        file.write("{broken\n")
    code, _, err = line()
    assert code == 2
    assert err.startswith("error: data.jsonl, line 11: Expecting property name")


def test_an_interrupt_says_how_to_resume(line, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(bs, "finetune", interrupted)
    code, out, err = line()
    assert (code, out) == (130, "")
    words = shlex.split(err.splitlines()[-1].partition("to resume: ")[2])
    assert words[:2] == ["basinscope", "finetune"]
