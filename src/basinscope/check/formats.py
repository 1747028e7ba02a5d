"""A gate as a text, a comment for a pull request, JUnit's XML, and a part of a model card."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from basinscope.errors import BasinscopeError
from basinscope.files import write
from basinscope.stats.rounded import percent

if TYPE_CHECKING:
    from basinscope.check.record import Change, Check

SHOWN, FOLDED = 10, 100
"""Ids of items that are listed in a text and in a comment; --json has them all."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKS = {"kept": "✅", "lost": "❌", "undecided": "❔"}
_SECTION = ("<!-- basinscope check: begins -->", "<!-- basinscope check: ends -->")


def text(check: Check) -> str:
    """Table of all rows, the items lost and gained, and where the models stand."""
    names = ("model", "task", "before", "after", "change", "", "lost", "gained", "allowed",
             "verdict")  # fmt: skip
    table = [
        (c.tuned, c.task, f"{c.before:.3f}", f"{c.after:.3f}", f"{c.difference:+.3f}",
         f"[{c.low:+.3f}, {c.high:+.3f}]", f"{len(c.lost)}", f"{len(c.gained)}", f"{c.allow:g}",
         f"{c.verdict} ({c.n} of {c.whole})")
        for c in check.changes
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(names, *table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (names, *table)
    ]
    lines += [f"- {c.tuned}, {c.task}: {c.says}" for c in check.changes if c.needed is not None]
    for c in check.changes:
        lines += [
            f"- {c.tuned}, {c.task}, {kind}: {_listed(ids)}"
            for kind, ids in (("lost", c.lost), ("gained", c.gained))
            if ids
        ]
    return "\n".join([*lines, *(f"- {line}" for line in standing(check)), headline(check)])


def headline(check: Check) -> str:
    """The verdict of the gate in a sentence."""
    rows = [c for c in check.changes if c.verdict == check.verdict]
    names = ", ".join(dict.fromkeys(f"{c.task} by {c.tuned}" for c in rows))
    sure = f"at {percent(check.confidence)} confidence"
    if check.verdict == "kept":
        return f"kept: against {check.base} no task lost more than is allowed, {sure}"
    if check.verdict == "lost":
        return f"lost: against {check.base} more than is allowed of {names}, {sure}"
    return f"undecided: against {check.base}, {names}, {sure}"


def standing(check: Check) -> list[str]:
    """Where the models stand, a line each; none of it decides the verdict."""
    lines = []
    for label, norm in check.displacements.items():
        kinds = sorted(check.moved.get(label, {}).items(), key=lambda pair: -pair[1])
        most = ", ".join(f"{kind} {share:.2%}" for kind, share in kinds[:4])
        far = f", the most in {most} of their norms" if kinds else ""
        lines.append(f"{label}: the weights moved by ||theta' - theta0|| = {norm:.4g}{far}")
    for c in check.changes:
        if c.nll is not None:
            lines.append(
                f"{c.tuned}, {c.task}: the reference answers are {abs(c.nll):.3f} nats "
                f"{'less' if c.nll > 0 else 'more'} likely than before, in the mean"
            )
    return lines + [row.says for row in check.stands]


def markdown(check: Check) -> str:
    """A comment for a pull request: the verdict, a table, and the items folded away."""
    several = len({c.tuned for c in check.changes}) > 1
    lines = [
        f"### {_MARKS[check.verdict]} basinscope check: {check.verdict}",
        "",
        _safe(headline(check)) + ".",
        "",
        f"| {'model | ' if several else ''}task | before | after | change | allowed loss | "
        "items lost / gained | |",
        "|---" * (8 if several else 7) + "|",
    ]
    for c in check.changes:
        asked = f"{c.n}" if c.n == c.whole else f"{c.n} of {c.whole}"
        lines.append(
            f"| {_safe(c.tuned) + ' | ' if several else ''}{_safe(c.task)} | {c.before:.3f} | "
            f"{c.after:.3f} | {c.difference:+.3f} ({c.low:+.3f} to {c.high:+.3f}) | {c.allow:g} | "
            f"{len(c.lost)} / {len(c.gained)} of {asked} | {_MARKS[c.verdict]} {c.verdict} |"
        )
    notes = [_safe(f"{c.task}: {c.says}") for c in check.changes if c.needed is not None]
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    folded = [
        f"- {_safe(c.tuned) + ', ' if several else ''}{_safe(c.task)}, {kind}: "
        + _safe(_listed(ids, FOLDED))
        for c in check.changes
        for kind, ids in (("lost", c.lost), ("gained", c.gained))
        if ids
    ]
    folded += [f"- {_safe(line)}" for line in standing(check)]
    if folded:
        lines += ["", "<details><summary>items, and where the models stand</summary>", "", *folded,
                  "", "</details>"]  # fmt: skip
    sure = percent(check.confidence)
    lines += [
        "",
        "<sub>The same items before and after. Each end of a change holds by itself with "
        f"{sure} confidence, for items like these; the verdicts hold together: a false *lost* "
        f"anywhere has at most {percent(round(1 - check.confidence, 12))} probability, and so has "
        "a false *kept*.</sub>",
    ]
    return "\n".join(lines) + "\n"


def junit(check: Check) -> str:
    """JUnit's XML: a suite for each model, a case for each task; undecided ones are skipped."""
    root = ElementTree.Element("testsuites", name="basinscope check")
    for model in dict.fromkeys(c.tuned for c in check.changes):
        rows = [c for c in check.changes if c.tuned == model]
        counts = {v: str(sum(c.verdict == v for c in rows)) for v in ("lost", "undecided")}
        suite = ElementTree.SubElement(
            root, "testsuite", name=_xml(model), tests=str(len(rows)), failures=counts["lost"],
            errors="0", skipped=counts["undecided"],
        )  # fmt: skip
        for c in rows:
            case = ElementTree.SubElement(suite, "testcase", name=_xml(c.task),
                                          classname=_xml(f"basinscope.{model}"))  # fmt: skip
            if c.verdict == "lost":
                failure = ElementTree.SubElement(case, "failure", message=_xml(c.says))
                failure.text = _xml(f"{_row(c)}\nlost: {', '.join(c.lost)}")
            elif c.verdict == "undecided":
                ElementTree.SubElement(case, "skipped", message=_xml(c.says))
            ElementTree.SubElement(case, "system-out").text = _xml(_row(c))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def write_card(check: Check, path: Path) -> Path:
    """Write scores into a model card: its ``model-index``, and a section that is replaced.

    Args:
        check: of one model.
        path: the card, a README.md; what else stands in it stays.

    Raises:
        BasinscopeError: a gate of several models, a card whose head cannot be read, or a path that
            cannot be written.
    """
    import yaml
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    labels = list(dict.fromkeys(c.tuned for c in check.changes))
    if len(labels) != 1:
        raise BasinscopeError(
            f"a card of {', '.join(labels)}", "a gate of one model", "check each by itself"
        )
    try:
        card = ModelCard.load(path) if path.exists() else ModelCard("---\n{}\n---\n")
        data = card.data
        assert isinstance(data, ModelCardData)
        mine = {c.task for c in check.changes}
        others = [r for r in data.eval_results or [] if r.dataset_type not in mine]
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise BasinscopeError(
            f"{path} is no model card that can be read ({str(error).splitlines()[0]:.120})",
            "a README.md with YAML between --- at its head, or none yet",
            "mend the head of the card, or name another file",
        ) from None
    data.model_name = data.model_name or os.path.basename(os.path.dirname(os.path.realpath(path)))
    data.eval_results = others + [
        EvalResult(
            task_type="text-generation", dataset_type=c.task, dataset_name=c.task,
            metric_type="accuracy", metric_name=f"accuracy on {c.n} of {c.whole} items",
            metric_value=round(c.after, 6),
        )
        for c in check.changes
    ]  # fmt: skip
    begin, end = _SECTION
    section = f"{begin}\n{markdown(check)}{end}"
    before, mark, rest = card.text.partition(begin)
    card.text = (
        before + section + rest.partition(end)[2]
        if mark
        else f"{card.text.rstrip()}\n\n{section}\n"
    )
    write(path, str(card))
    return path


def _row(c: Change) -> str:
    return (
        f"before {c.before:.4f}, after {c.after:.4f}, change {c.difference:+.4f} "
        f"[{c.low:+.4f}, {c.high:+.4f}], {len(c.lost)} lost and {len(c.gained)} gained of {c.n}"
    )


def _listed(ids: tuple[str, ...], most: int = SHOWN) -> str:
    return ", ".join(ids[:most]) + (f", ... ({len(ids)} in all)" if len(ids) > most else "")


def _safe(text: str) -> str:
    """A text that Markdown takes as it is: no cell, tag, link or mention begins in it."""
    plain = html.escape(" ".join(_xml(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|@#~])", r"\\\1", plain).replace("\\@", "@\u200b")


def _xml(text: str) -> str:
    """A text without the characters that XML and UTF-8 have no place for."""
    return _NOT_XML.sub("\ufffd", text)
