"""The command that certifies: what it prints where, and how it ends."""

import json
import re

import pytest

from basinscope import cli


@pytest.fixture
def run_cli(capsys, monkeypatch, tmp_path):
    """Run a line in an empty folder; gives exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*arguments):
        capsys.readouterr()
        code = 0
        try:
            cli.main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def line(checkpoint):
    common = ["-t", "basic", "--limit", "3", "--workers", "1", "--run", "x"]
    return lambda *more: ["certify", checkpoint, *common, "--draws", "12", *more]


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
        ("more", "draws"),
        [((), 12), (("--sweep", "0.001,0.01"), 24), (("--tokens", "position"), 12)],
        ids=["certificate", "strict", "tokens"],
    )
    def test_a_dry_run_writes_nothing(self, more, draws, run_cli, line, tmp_path):
        code, out, _ = run_cli(*line(*more, "--dry-run"))
        assert code == 0
        assert out.startswith(f"{draws} settings of the weights x 3 items = {3 * draws} ")
        assert not (tmp_path / "x").exists()

    def test_json_is_one_object_on_standard_output(self, run_cli, line, checkpoint):
        more = ("--against", checkpoint, "--json")
        code, out, err = run_cli(*line(*LOOSE, *more))
        assert code == 2, "the same weights are no displacement"
        assert "has the same weights as the model" in err
        assert out == ""
        code, out, _ = run_cli(*line(*LOOSE, "--json"))
        found = json.loads(out)
        assert code == 0
        assert found["task"] == "basic"
        assert len(found["counts"]) == 12
        assert found["verdicts"] == []
        assert found["does_not_cover"]

    def test_judges_quantised_copies(self, run_cli, line):
        code, out, _ = run_cli(
            *line(*LOOSE, "--against", "quantised:8", "--against-draws", "2", "--json")
        )
        (verdict,) = json.loads(out)["verdicts"]
        assert code == 0
        assert verdict["label"] == "quantised:8"
        assert verdict["word"] in ("certified", "outside the certificate", "vacuous")
        assert verdict["smoothed"]["low"] <= verdict["smoothed"]["high"]

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
    code, out, _ = run_cli(*line("--sweep", "1e-7,1e-6", "--share", "0.5", "--confidence", "0.9"))
    assert code == 0
    assert "true up to 1e-06" in out
    assert "sigma 1e-07: 12 of 12 clean, true" in out
    assert "Not covered:" in out
    code, again, _ = run_cli("report", "x")
    assert (code, again) == (0, out)


@pytest.mark.parametrize("mode", ["position", "row"])
def test_tokens(run_cli, line, mode):
    code, out, _ = run_cli(*line("--tokens", mode, "--confidence", "0.5", "--sigma", "0.01"))
    assert code == 0
    assert f"{mode}-wise noise, sigma 0.01" in out
    assert "near-duplicate replacements are covered" in out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--sigma", "0"), r"sigma=0.0; allowed: above 0 and finite"),
        (("--sigma=-1",), r"sigma=-1.0; allowed: above 0 and finite"),
        (("--confidence", "99"), r"confidence=99.0; allowed: between 0 and 1"),
        (("--claim", "0.9999"), r"draws=12 cannot certify .* allowed: at least \d+ draws"),
        (("-t", "basic,math"), r"2 tasks; allowed: one for each certificate"),
        (("--geometry", "sphere"), r"geometry 'sphere'; allowed: isotropic"),
        (("--against", "./nosuch", *LOOSE), r"no model at './nosuch'"),
        (("--sweep", "a"), r"steps 'a'; allowed"),
        (("--strict", "--draws", "3"), r"draws=3 cannot show"),
        (("--tokens", "suffix"), r"suffix"),
        (("--draws", "0"), r"draws=0; allowed: at least 1"),
        (("--strict", "--against", "quantised:8"), r"--against does nothing here; .*without --str"),
        (("--strict", "--claim", "0.5"), r"--claim does nothing here"),
        (("--tokens", "row", "--geometry", "rms"), r"--geometry does nothing here"),
        (("--tokens", "row", "--strict"), r"--strict or --sweep does nothing here"),
        (("--tau", "0.1", *LOOSE), r"--tau does nothing here; allowed: with --strict"),
        (("--against-draws", "3", *LOOSE), r"--against-draws does nothing here; .* --against"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_the_users_errors(run_cli, line, more, words):
    given = [str(a) for a in line()]
    for option in more[:-1:1]:
        if option in given:  # given once, the later one
            at = given.index(option)
            del given[at : at + 2]
    code, out, err = run_cli(*given, *more)
    assert code == 2
    assert out == ""
    assert re.search(words, err.splitlines()[-1])
    assert err.splitlines()[-1].startswith("error: ")


def test_mixing_plans_is_an_error(run_cli, line):
    assert run_cli(*line(*LOOSE))[0] == 0
    code, _, err = run_cli(*line("--confidence", "0.5", "--sigma", "0.02"))
    assert code == 2
    assert "sigma 0.01 -> 0.02" in err
