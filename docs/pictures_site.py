"""Draws docs/img/site-*.png: a board as Chromium shows it, wide, narrow and dark.

    python docs/pictures_site.py [PATHS]

PATHS are what `prunebench leaderboard` takes, by default the smoke baselines and .prunebench/,
which has timings. Needs Chromium and Pillow.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from prunebench.leaderboard import build, site
from prunebench.results import archive

#: Name, width, height and scheme.
PICTURES = (
    ("wide", 1280, 2080, "light"),
    ("narrow", 375, 1100, "light"),
    ("dark", 1280, 2080, "dark"),
)


def main() -> None:
    """Build the site somewhere else and take its pictures."""
    given = [Path(text) for text in sys.argv[1:]]
    records = archive.read(given or [Path("baselines/quality/smoke"), Path(".prunebench")]).records
    boards = build.boards(records)
    timed = max(boards, key=lambda board: sum(bool(row.timings) for row in board.rows))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site.write(Path(folder), site.build(boards, records, "Structured pruning"))
        page = (Path(folder) / "boards" / f"{timed.name}.html").as_uri()
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, width, height, scheme in PICTURES:
            shot = _shot(browser, page, width, height, scheme)
            # A palette is a third of the size, and nobody sees the difference in text.
            image = Image.open(io.BytesIO(shot)).convert("RGB")
            image = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=0)
            image.save(Path("docs/img") / f"site-{name}.png", optimize=True)
        browser.close()


def _shot(browser: Any, page: str, width: int, height: int, scheme: str) -> bytes:
    viewport = {"width": width, "height": height}
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    opened = context.new_page()
    opened.goto(page)
    taken: bytes = opened.screenshot()
    context.close()
    return taken


if __name__ == "__main__":
    main()
