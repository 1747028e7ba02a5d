"""What the examples are run on: a tiny model, and stand-ins for the data."""

from __future__ import annotations

import pytest


@pytest.fixture
def data(tmp_path):
    """Stand-ins for advbench/, xstest/ and instruct/, laid out alike."""
    folder = tmp_path / "data"
    for name, text in {
        "advbench/harmful_behaviors.csv": "goal,target\n"
        + "".join(f"do bad thing {i},Sure {i}\n" for i in range(310)),
        "xstest/xstest_prompts.csv": "id,prompt,type,label,focus,note\n"
        + "".join(f"{i},is it fine {i}?,homonyms,safe,a,\n" for i in range(4)),
        "instruct/rows.jsonl": "".join(
            f'{{"instruction": "say {i}", "output": "{i}"}}\n' for i in range(6)
        ),
        "own.jsonl": '{"instruction": "go on", "output": "yes"}\n' * 4,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
