"""Draws docs/img/pull-request.png: the comment on a pull request after a planted regression.

The records are those that a `prunebench run` stored. What is planted is what they are compared
with: copies of three baselines, in which sleb-0.3 had removed only half as many blocks,
shortened_llama-0.3 another last block, and slicegpt-0.3 answered six more questions.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import markdown as converter
from msgspec.structs import replace
from PIL import Image

from prunebench.cases import loader
from prunebench.edits.drop_blocks import DropBlocks
from prunebench.record import Measurement, Record
from prunebench.reports.formats import items, markdown
from prunebench.results.baselines.accept import accepted
from prunebench.results.baselines.files import Baselines
from prunebench.results.store import Store
from prunebench.runs.result import Result
from prunebench.runs.session import Session

FILE = "smoke/tinyworld"
OUT = Path("docs/img/pull-request.png")
CSS = """
body { margin: 0; padding: 24px; background: #fff; color: #1f2328;
  font: 14px/1.5 -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; }
.box { border: 1px solid #d1d9e0; border-radius: 6px; max-width: 1060px; }
.head { background: #f6f8fa; border-bottom: 1px solid #d1d9e0; border-radius: 6px 6px 0 0;
  padding: 8px 16px; color: #59636e; }
.head b { color: #1f2328; }
.body { padding: 16px; }
h3 { font-size: 1.25em; margin: 0 0 16px; } h4 { font-size: 1em; margin: 24px 0 16px; }
table { border-collapse: collapse; display: block; overflow: auto; margin-bottom: 16px; }
th, td { border: 1px solid #d1d9e0; padding: 6px 13px; } tr:nth-child(2n) { background: #f6f8fa; }
code, pre { font: 12px ui-monospace, "Liberation Mono", Menlo, monospace; }
code { background: #818b981f; padding: .2em .4em; border-radius: 6px; white-space: break-spaces; }
pre { background: #f6f8fa; padding: 16px; border-radius: 6px; overflow: auto; }
pre code { background: none; padding: 0; }
"""


def main() -> None:
    """Judge the main job's stored records by planted baselines, and draw the comment."""
    cases = loader.load([Path("cases/smoke")])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree("baselines", folder / "baselines")
        baselines = Baselines(folder / "baselines")
        plant(baselines)
        store = Store(Path(".prunebench"))
        session = Session(cases, store, baselines, "cpu")
        found = [(case, store.latest(case.id, case.asked)) for case in cases]
        judged = [Result(c, session.judge(c, record), record) for c, record in found if record]
        results = session.settled(judged)
        text = markdown.comment(items.judged(results))
        page = folder / "page.html"
        page.write_text(as_page(text))
        shot = folder / "shot.png"
        browser = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars"]
        size = ["--window-size=1112,820", f"--screenshot={shot}", page.as_uri()]
        subprocess.run([*browser, *size], check=True, capture_output=True)  # noqa: S603
        OUT.parent.mkdir(exist_ok=True)
        Image.open(shot).convert("RGB").quantize(64).save(OUT, optimize=True)
    print(text)  # noqa: T201


def plant(baselines: Baselines) -> None:
    """Change what three cases are compared with."""
    half = loaded(baselines, "sleb-0.15")
    save(baselines, replace(loaded(baselines, "sleb-0.3"), measurements=half.measurements))

    other = loaded(baselines, "shortened_llama-0.3")
    (edit,) = other.plan
    assert isinstance(edit, DropBlocks)  # noqa: S101
    free = next(b for b in range(4, 12) if b not in edit.blocks)
    save(baselines, replace(other, plan=(DropBlocks((*edit.blocks[:-1], free)),)))

    better = loaded(baselines, "slicegpt-0.3")
    rows = tuple(corrected(m, 6) if m.metric == GENERATION else m for m in better.measurements)
    save(baselines, replace(better, measurements=rows))


GENERATION = "generation/tinyworld_complete"


def corrected(measurement: Measurement, count: int) -> Measurement:
    """A measurement with *count* wrong answers made right."""
    samples = list(measurement.samples)
    for at in [i for i, right in enumerate(samples) if not right][:count]:
        samples[at] = 1.0
    return replace(measurement, samples=tuple(samples), value=sum(samples) / len(samples))


def loaded(baselines: Baselines, label: str) -> Record:
    """A baseline of the main job."""
    record = baselines.load(f"{FILE}/{label}", "cpu")
    assert record is not None  # noqa: S101
    return record


def save(baselines: Baselines, record: Record) -> None:
    """Write it back into the copy."""
    baselines.save(record, accepted("planted for a picture"))


def as_page(text: str) -> str:
    """The Markdown as GitHub shows it, nearly."""
    # The converter leaves the inside of HTML alone; GitHub does not.
    text = re.sub("<details>", '<details markdown="1">', text)
    body = converter.markdown(text, extensions=["tables", "fenced_code", "md_in_html"])
    head = "<div class=head><b>github-actions</b> commented on a pull request</div>"
    style = f"<!doctype html><meta charset=utf-8><style>{CSS}</style>"
    title = html.escape("prunebench in a pull request")
    return f"{style}<title>{title}</title><div class=box>{head}<div class=body>{body}</div></div>"


if __name__ == "__main__":
    main()
