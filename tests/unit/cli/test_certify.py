"""The commands that certify: what they print where, and how they end."""

import json
import re

import pytest


@pytest.fixture
def line(checkpoint):
    common = ["-t", "basic", "--limit", "3", "--run", "x"]

    def make(*more, command="certify"):
        workers = [] if command == "certify-tokens" else ["--workers", "1"]
        return [command, checkpoint, *common, *workers, "--draws", "12", *more]

    return make


LOOSE = ("--confidence", "0.5", "--sigma", "0.01")


class TestCertificate:
    def test_prints_what_holds_and_what_does_not(self, run_cli, line, tmp_path):
        code, out, err = run_cli(*line(*LOOSE))
        assert code == 0
        assert re.search(r"^p >= 0\.\d{4}", out)
        assert "Not covered:" in out
        assert "12 draws x 3 items = 36 evaluations" in err
        assert (tmp_path / "x" / "figures" / "certificate.png").exists()
        assert (tmp_path / "x" / "figures" / "certificate.csv").exists()

    @pytest.mark.parametrize(
        ("command", "more", "draws"),
        [
            ("certify", (), 12),
            ("strict-basin", ("--sigmas", "0.001,0.01", "--share", "0.5"), 24),
            ("certify-tokens", (), 12),
        ],
    )
    def test_a_dry_run_writes_nothing(self, command, more, draws, run_cli, line, tmp_path):
        loose = ("--confidence", "0.5", *more)
        code, out, _ = run_cli(*line(*loose, "--dry-run", command=command))
        assert code == 0
        assert out.startswith(f"{draws} settings of the weights x 3 items = {3 * draws} ")
        assert not (tmp_path / "x").exists()

    def test_json_is_one_object_on_standard_output(self, run_cli, line):
        code, out, _ = run_cli(*line(*LOOSE, "--json"))
        cert = json.loads(out)
        assert code == 0
        assert cert["task"] == "basic"
        assert len(cert["counts"]) == 12
        assert cert["does_not_cover"]
        assert cert["figure"] == "x/figures/certificate.png"

    def test_it_judges_other_weights(self, run_cli, line, checkpoint, tmp_path):
        assert run_cli(*line(*LOOSE))[0] == 0
        code, out, _ = run_cli("verdict", "x", "quantised:8", "quantised:4", "--draws", 2, "--json")
        assert code == 0
        one, _ = verdicts = json.loads(out)["verdicts"]
        assert [verdict["label"] for verdict in verdicts] == ["quantised:8", "quantised:4"]
        assert one["word"] in ("certified", "outside the certificate", "vacuous")
        assert one["score"]["low"] <= one["score"]["high"]
        assert one["smoothed"]["low"] <= one["smoothed"]["high"]
        assert (tmp_path / "x" / "figures" / "measured.png").exists()
        code, out, _ = run_cli("verdict", "x", "quantised:8")
        assert code == 0
        assert out.startswith(f"quantised:8: {one['word']} ")
        code, out, err = run_cli("verdict", "x", checkpoint)
        assert code == 2, "the same weights are no displacement"
        assert "has the same weights as the model" in err
        assert out == ""

    def test_the_folder_is_verified_and_described(self, run_cli, line):
        run_cli(*line(*LOOSE))
        code, out, _ = run_cli("status", "x")
        assert code == 0
        assert out.startswith("certificate of ")
        code, out, _ = run_cli("report", "x")
        assert code == 0
        assert out.startswith("p >= ")
        code, out, _ = run_cli("verify", "x")
        assert code == 0
        assert "13 records verified" in out


def test_strict_sweep(run_cli, line):
    more = ("--sigmas", "1e-7,1e-6", "--share", "0.5", "--confidence", "0.9")
    code, out, _ = run_cli(*line(*more, command="strict-basin"))
    assert code == 0
    assert "true up to 1e-06" in out
    assert "sigma 1e-07: 12 of 12 clean, true" in out
    assert "Not covered:" in out
    code, again, _ = run_cli("report", "x")
    assert (code, again) == (0, out)


@pytest.mark.parametrize("mode", ["position", "row"])
def test_tokens(run_cli, line, mode):
    more = ("--mode", mode, "--confidence", "0.5", "--sigma", "0.01")
    code, out, _ = run_cli(*line(*more, command="certify-tokens"))
    assert code == 0
    assert f"{mode}-wise noise, sigma 0.01" in out
    assert "near-duplicate replacements are covered" in out


def test_mixing_plans_is_an_error(run_cli, line):
    assert run_cli(*line(*LOOSE))[0] == 0
    code, _, err = run_cli(*line("--confidence", "0.5", "--sigma", "0.02"))
    assert code == 2
    assert "sigma 0.01 -> 0.02" in err
