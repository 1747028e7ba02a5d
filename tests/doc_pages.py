"""The pages that a reader sees, and the blocks of code in them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MADE = ROOT / "docs" / "reference" / "commands.md"  # from the commands themselves
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "results/README.md")),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page != MADE),
]
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]*) -->\n+)?"
    r"(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, where it begins, and why it is not run ("")."""

    language: str
    text: str
    line: int
    reason: str


def name(page: Path) -> str:
    """Path of a page from the root of the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            match["language"],
            textwrap.dedent(match["text"]),
            text.count("\n", 0, match.start("text")) + 1,
            match["reason"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]


def inline(page: Path) -> list[str]:
    """Code within the sentences of a page."""
    prose = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
