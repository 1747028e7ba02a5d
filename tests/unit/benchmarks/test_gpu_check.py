"""The check of a card, run on the CPU: that the script itself works is found out before a card."""

import json
import re
from contextlib import nullcontext

import pretended
import pytest
import torch
from benchmarks import gpu_check
from toys import write_checkpoint

import basinscope as bs


def test_all_parts_run_on_a_cpu(tmp_path, capsys):
    model, out = write_checkpoint(tmp_path / "model", "llama"), tmp_path / "out.json"
    line = ["--device", "cpu", "--tiny", "--model", str(model), "--json", str(out)]
    assert gpu_check.main(line) == 0
    parts = json.loads(out.read_text())["parts"]
    assert [part["part"] for part in parts] == [part.__name__ for part in gpu_check.PARTS]
    assert all(part["passed"] for part in parts)
    text = capsys.readouterr().out
    assert all(len(re.findall(rf"(?m)^{part['part']} ", text)) == 2 for part in parts)


def test_all_parts_run_on_a_card_that_is_pretended(tmp_path, monkeypatch):
    model, out, load = write_checkpoint(tmp_path / "model", "llama"), tmp_path / "out.json", bs.load

    def placed(word, *, device="cpu", **options):
        engine = load(word, **options)
        if device == "cpu" and isinstance(word, str):
            return engine
        return load(pretended.to_card(engine.module), tokenizer=engine.tokenizer)

    monkeypatch.setattr(bs, "load", placed)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    for name in ("get_device_name", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda _: 0)
    monkeypatch.setattr(torch, "autocast", lambda *_: nullcontext())
    with pretended.card():
        line = ["--device", "cuda", "--tiny", "--model", str(model), "--json", str(out)]
        assert gpu_check.main(line) == 0, out.read_text()


class TestRun:
    @pytest.fixture
    def place(self):
        return gpu_check.Place(torch.device("cpu"), True, "")

    def test_a_part_survives_the_failure_of_another(self, place, capsys):
        def broken(place):
            raise MemoryError("the card is full")

        def whole(place):
            return True, {"rate": 1.0}

        done = gpu_check.run(place, 60.0, [broken, whole])
        assert [line["passed"] for line in done] == [False, True]
        assert "MemoryError: the card is full" in gpu_check.table(done)

    def test_no_part_begins_when_the_time_is_up(self, place):
        (line,) = gpu_check.run(place, -1.0, [gpu_check.bits])
        assert line["passed"] is None
        assert "-1 s are over" in gpu_check.table([line])

    def test_other_bits_fail(self, place, monkeypatch):
        normals = gpu_check.noise.normals
        monkeypatch.setattr(
            gpu_check.noise, "normals", lambda *a, device=None, **k: normals(*a, **k) + bool(device)
        )
        passed, figures = gpu_check.bits(place)
        assert not passed
        assert figures["unequal"] == ["normals from 0", f"normals from {2**34 - 5}"]
