"""Commands, options, names and links of the README and the docs are those that there are."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import shlex

import pytest
from cyclopts import CycloptsError
from doc_pages import MADE, PAGES, ROOT, blocks, inline, name

from basinscope.cli import app

EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=name)
COMMANDS = [command for command in app if not command.startswith("-")]
OPTIONS = {
    option
    for command in COMMANDS
    for argument in app[command].assemble_argument_collection()
    for option in argument.names
} | {"--help", "--version"}
OTHER_PROGRAMS = ("python", "benchmarks", "make", "pip", "torchrun", "apt-get", "lm-eval", ".venv")


def command_lines(page):
    """Words of every call of the program: in blocks, and in sentences if it has an argument."""
    for block in blocks(page):
        if block.language in ("sh", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words and words[0] == "basinscope":
                    yield words[1:]
    for code in inline(page):
        words = shlex.split(code) if code.startswith("basinscope ") else []
        if len(words) > 2 and words[1] != "COMMAND":
            yield words[1:]


def refused(words):
    """Why the command line does not take these words; None if it does."""
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return f"basinscope {shlex.join(words)}: {error}"
    return None


@EVERY_PAGE
def test_the_command_line_takes_every_line(page):
    assert [reason for words in command_lines(page) if (reason := refused(words))] == []


@EVERY_PAGE
def test_options_in_a_sentence_exist(page):
    own = [code for code in inline(page) if not code.startswith(OTHER_PROGRAMS)]
    options = {option for code in own for option in re.findall(r"(?<!\S)--[a-z][a-z_-]*", code)}
    assert {option for option in options if "_" not in option} <= OPTIONS


@EVERY_PAGE
def test_names_of_the_package_exist(page):
    code = [*inline(page), *(b.text for b in blocks(page) if b.language == "python")]
    names = {
        re.sub(r"^bs\.", "basinscope.", path)
        for text in code
        for path in re.findall(r"(?<![\w./])(?:bs|basinscope)(?:\.[A-Za-z_]\w*)+", text)
    }
    assert [path for path in sorted(names) if not resolves(path)] == []


def resolves(path):
    try:
        pkgutil.resolve_name(path)
    except (AttributeError, ImportError):
        return False
    return True


@EVERY_PAGE
def test_links_lead_to_files(page):
    prose = re.sub(r"`[^`]*`", "", page.read_text(encoding="utf-8"))
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose)]
    files = [target for target in targets if target and "://" not in target]
    docs = ROOT / "docs"  # where `make docs` makes pages of the docstrings and of SECURITY.md
    paths = [(page.parent / file).resolve() for file in files]
    absent = [p for p in paths if not p.exists() and p != docs / "security.md"]
    assert [str(p) for p in absent if p.parent != docs / "reference" / "api"] == []


def test_pages_that_the_code_names_exist():
    files = [
        file for room in ("src", "benchmarks", "examples") for file in (ROOT / room).rglob("*.py")
    ]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    pages = set(re.findall(r"docs/[\w/-]+\.md", text))
    assert pages
    assert [page for page in sorted(pages) if not (ROOT / page).exists()] == []


def test_the_reference_of_commands_is_what_the_commands_say():
    spec = importlib.util.spec_from_file_location("docs_help", ROOT / "docs" / "help.py")
    docs_help = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs_help)
    said = MADE.read_text(encoding="utf-8")
    assert said == docs_help.page(), "try: python docs/help.py --write"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["landscape", "MODEL", "--step", "0"], "--step"),
        (["landscape", "MODEL", "--limit", "many"], "many"),
        (["landscap", "MODEL"], "landscap"),
    ],
)
def test_a_line_that_the_program_refuses_is_seen(words, reason):
    assert reason in refused(words)
