"""A gate as text, Markdown, JUnit and model card: whatever stands in names stays text."""

from __future__ import annotations

import json
import math
import re
from xml.etree import ElementTree

import pytest
import yaml
from huggingface_hub import ModelCard

from basinscope.check.formats import junit, markdown, text, write_card
from basinscope.check.record import Check, Pairs, judged
from basinscope.errors import BasinscopeError

HOSTILE = "a|b`c`<script>\n@team #1 [x](http://y) \x00\ud800"


def pairs(task, tuned, lost, n=100, allow=0.02, items=None):
    after = (0,) * lost + (1,) * (n - lost)
    return Pairs(task, tuned, items or tuple(map(str, range(n))), (1,) * n, after, n, allow, (n,))


@pytest.fixture
def gate():
    rows = [pairs("math", "to:x", 40), pairs("code", "to:x", 0, n=400), pairs("basic", "to:x", 2)]
    return Check("base", 0.95, judged(rows, 0.95), {"to:x": 4.4}, {"to:x": {"q": 0.5, "k": 0.1}})


@pytest.fixture
def hostile():
    items = (HOSTILE, *map(str, range(99)))
    rows = [pairs(HOSTILE, HOSTILE, 50, items=items), pairs("b", "y", 50)]
    return Check(HOSTILE, 0.95, judged(rows, 0.95))


def test_the_text_says_all(gate):
    lines = text(gate).splitlines()
    assert lines[0].split()[:3] == ["model", "task", "before"]
    assert "lost (100 of 100)" in lines[1]
    assert "kept (400 of 400)" in lines[2]
    assert any("to:x, basic: undecided on all 100 items: the loss seen is just" in x for x in lines)
    assert any("math, lost: 0, 1, 2, " in x and x.endswith("... (40 in all)") for x in lines)
    assert any("= 4.4, the most in q 50.00%, k 10.00% of their norms" in x for x in lines)
    assert lines[-1].startswith("lost: against base more than is allowed of math by to:x, at 95%")


def test_json_has_no_infinity(gate):
    assert math.isinf(gate.changes[2].needed)
    body = json.loads(json.dumps(gate.to_json(), allow_nan=False))
    assert body["changes"][2]["needed"] is None
    assert [len(c["lost"]) for c in body["changes"]] == [40, 0, 2]


def test_markdown_is_a_table_and_folds_the_items(gate):
    page = markdown(gate)
    assert page.startswith("### ❌ basinscope check: lost\n")
    assert "| math | 1.000 | 0.600 | -0.400 (" in page
    assert "| 40 / 0 of 100 | ❌ lost |" in page
    assert page.count("<details>") == page.count("</details>") == 1
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {8}


def test_a_comment_does_not_outgrow_what_github_takes():
    rows = [pairs("math", f"to:{n}", 9000, n=10_000) for n in range(6)]
    page = markdown(Check("base", 0.95, judged(rows, 0.95)))
    assert "99, ... (9000 in all)" in page
    assert len(page) < 65_536


def test_hostile_names_stay_text_in_markdown(hostile):
    page = markdown(hostile)
    rows = [line.replace("\\|", "") for line in page.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {9}
    assert "<script>" not in page
    assert "@team" not in page
    assert not re.search(r"(?<!\\)\]\(", page)
    page.encode()


def test_junit_is_read_back(gate, hostile):
    suite = ElementTree.fromstring(junit(gate)).find("testsuite")
    assert suite.attrib | {"name": ""} == {
        "name": "", "tests": "3", "failures": "1", "errors": "0", "skipped": "1",
    }  # fmt: skip
    (failed,) = suite.findall("testcase/failure")
    assert "lost more than the 0.02 allowed" in failed.attrib["message"]
    assert "lost: 0, 1, 2" in failed.text
    root = ElementTree.fromstring(junit(hostile))
    assert "<script>" in root.find("testsuite").attrib["name"]


class TestCard:
    def test_a_new_card_has_a_model_index_and_a_section(self, gate, tmp_path):
        path = write_card(gate, tmp_path / "tuned" / "README.md")
        card = ModelCard.load(path)
        assert card.data.model_name == "tuned"
        results = {r.dataset_type: r.metric_value for r in card.data.eval_results}
        assert results == {"math": 0.6, "code": 1.0, "basic": 0.98}
        head = yaml.safe_load(path.read_text().split("---")[1])
        assert head["model-index"][0]["name"] == "tuned"
        assert "### ❌ basinscope check: lost" in card.text

    def test_what_else_stands_in_a_card_stays_and_the_section_is_replaced(self, gate, tmp_path):
        path = tmp_path / "README.md"
        path.write_text("---\nlicense: mit\ntags: [a]\n---\n# Mine\n\nwords\n")
        once = write_card(gate, path).read_text()
        path.write_text(path.read_text() + "\nmore words\n")
        twice = write_card(gate, path).read_text()
        assert twice.replace("\nmore words\n", "") == once
        assert "license: mit" in twice
        assert "# Mine" in twice
        assert twice.count("basinscope check: begins") == 1

    @pytest.mark.parametrize("head", ["---\n[1\n---\n", "---\n- a\n---\n"])
    def test_a_card_that_cannot_be_read_is_refused(self, head, gate, tmp_path):
        path = tmp_path / "README.md"
        path.write_text(head)
        with pytest.raises(BasinscopeError, match=r"README.md is no model card that can be read"):
            write_card(gate, path)
        assert path.read_text() == head

    def test_a_card_is_of_one_model(self, hostile, tmp_path):
        with pytest.raises(BasinscopeError, match="a gate of one model"):
            write_card(hostile, tmp_path / "README.md")
