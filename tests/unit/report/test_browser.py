"""The page in a real browser: drawn, quiet, alone, and hostile names stay text."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from basinscope.report.landscapes import landscape_page
from basinscope.report.page import PAGE

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NASTY = "<img src=x onerror=console.error('ran')><b>bold</b>"
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


def browse(path, *options):
    """What a browser made of a page, and what it had to say."""
    return subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--virtual-time-budget=4000", f"--user-data-dir={path.parent / 'profile'}", *options,
         path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


@pytest.fixture
def page(draw, tmp_path):
    land = draw((f"task {NASTY}", (NASTY, "no"), 0.5), label=f"to:{NASTY}")
    return landscape_page(land, tmp_path).write(tmp_path / PAGE)


def test_figures_take_the_place_of_pictures_and_nothing_complains(page):
    seen = browse(page, "--dump-dom")
    assert "CONSOLE" not in seen.stderr
    shown = re.sub(r"<script.*?</script>", "", seen.stdout, flags=re.DOTALL)
    assert 'class="main-svg"' in shown
    assert 'class="figures live"' in shown
    assert "<img src=x" not in shown.replace("&lt;", "")
    assert "task &lt;img" in shown


def test_the_policy_lets_nothing_be_loaded_and_no_other_script_run(page, tmp_path):
    """The page as it is, with what an attacker would have wished to write into it."""
    wishes = (
        "<script>console.error('ran')</script><img src='http://127.0.0.1:9/x.png'>"
        "<link rel=stylesheet href='http://127.0.0.1:9/x.css'>"
    )
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("<main>", f"<main>{wishes}", 1))
    complaints = browse(broken, "--dump-dom").stderr
    assert "'ran'" not in complaints.replace("console.error('ran')", "")
    assert len(re.findall("violates the following Content Security Policy", complaints)) >= 3


def test_is_readable_without_scripts_and_on_a_phone(page, tmp_path):
    text = page.read_text()
    bare = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    silent = tmp_path / "silent.html"
    silent.write_text(bare)
    shot = tmp_path / "phone.png"
    browse(silent, f"--screenshot={shot}", "--window-size=390,1200")
    assert shot.stat().st_size > 10_000
    assert "data:image/png;base64," in bare
    assert 'name="viewport"' in bare
    assert '<html lang="en">' in bare


def test_paints_at_once(page, tmp_path):
    """First paint, by the browser's own clock, on whatever machine; a second on an idle one."""
    ask = (
        "<script>addEventListener('load', () => setTimeout(() => { document.body.append("
        "`painted ${performance.getEntriesByName('first-contentful-paint')[0].startTime} ms`)"
        "}, 500))</script></body>"
    )
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text())
    asking = tmp_path / "asking.html"
    asking.write_text(text.replace("</body>", ask))
    seen = browse(asking, "--dump-dom").stdout
    assert float(re.findall(r"painted ([0-9.]+) ms", seen)[-1]) < 5000


def contrast(one, other):
    """Ratio of two colours, as WCAG 2 defines it."""

    def light(colour):
        parts = [
            int(c * 2 if len(colour) == 4 else c, 16) / 255
            for c in (
                re.findall(".", colour[1:]) if len(colour) == 4 else re.findall("..", colour[1:])
            )
        ]
        r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_of_text_are_told_from_the_ground(page):
    style = page.read_text().partition("<style>")[2].partition("</style>")[0]
    inks = set(re.findall(r"[^-]color: (#[0-9a-f]{3,6})", style))
    assert inks
    assert min(contrast(ink, "#fff") for ink in inks) > 4.5


def test_every_picture_says_what_it_shows(page):
    pictures = re.findall(r"<img [^>]*>", page.read_text().partition("<script")[0])
    assert pictures
    assert all(re.search(r'alt="[^"]{8,}"', picture) for picture in pictures)
