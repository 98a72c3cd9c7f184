from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from factories import record as made
from lxml import etree
from msgspec.structs import replace
from sites import EVIL, ROOT, SMOKE, built, hostile, many, shipped

from prunebench import (
    DropBlocks,
    DropSublayers,
    LoadCheckpoint,
    Measurement,
    MergeBlocks,
    RefitWeights,
    SliceHidden,
)
from prunebench.leaderboard import build, site
from prunebench.leaderboard.site import block_map_svg, plots
from prunebench.leaderboard.site import pages as building
from prunebench.leaderboard.site.cells import columns

#: Elements that have no end.
VOID = {"meta", "link", "input", "br", "wbr", "img"}
#: What an SVG has without content, and closes itself.
SELF_CLOSED = {"path", "use", "rect", "line", "circle", "polyline"}


class Page(HTMLParser):
    """A page's elements, links, ids and scripts; complains where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        assert len(own) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, own))
        self.links += [own[k] or "" for k in ("href", "src") if k in own]
        self.ids += [own["id"] or ""] if "id" in own else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return built(shipped())


def pages(files: dict[str, bytes]) -> dict[str, Page]:
    return {n: Page(c.decode()) for n, c in files.items() if n.endswith(".html")}


def test_every_page_is_well_formed_and_says_what_it_is(files: dict[str, bytes]) -> None:
    """Tags match, ids are unique, there is a language, one heading and a way past the header."""
    for name, page in pages(files).items():
        tags = [tag for tag, _ in page.elements]
        assert len(set(page.ids)) == len(page.ids), name
        assert dict(page.elements)["html"] == {"lang": "en"}
        assert (tags.count("h1"), tags.count("main"), tags.count("title") >= 1) == (1, 1, True)
        assert "#main" in page.links
        assert all(own.get("scope") for tag, own in page.elements if tag == "th"), name
        assert tags.count("table") == tags.count("caption"), name
        for tag, own in page.elements:
            assert not any(key.startswith("on") for key in own)
            assert tag != "style"
            assert "style" not in own, name  # the policy has no inline styles


def test_every_link_is_to_a_file_or_place_of_the_site(files: dict[str, bytes]) -> None:
    """No link leaves the site, and each has something at its other end."""
    found = pages(files)
    for name, page in found.items():
        for link in page.links:
            if link == "data:,":
                continue
            path, _, place = link.partition("#")
            assert ":" not in link
            assert not link.startswith("/")
            target = name
            if path:
                parts: list[str] = []
                for part in (PurePosixPath(name).parent / path).parts:
                    parts = parts[:-1] if part == ".." else [*parts, part]
                target = "/".join(parts)
            assert target in files, (name, link)
            assert not place or place in found[target].ids, (name, link)


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(files: dict[str, bytes]) -> None:
    """In any order, and in another process with another hash seed."""
    assert built(shipped()[::-1]) == files
    program = (
        "import hashlib, sys; sys.path.insert(0, 'tests'); from sites import built, shipped\n"
        "print(hashlib.sha256(repr(sorted(built(shipped()).items())).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.slow
def test_text_of_records_is_only_shown() -> None:
    """Markup in any text of a record makes no element, and what turns a line round is escaped."""
    harmless, harmful = pages(built(shipped())), pages(built([*shipped(), hostile()]))
    (name,) = (n for n in harmful if "evil" in n)
    scripts = [own for page in harmful.values() for tag, own in page.elements if tag == "script"]

    assert all(set(own) <= {"src", "defer"} for own in scripts)
    assert len(scripts) == 2 * len(harmful)
    assert {tag for page in harmful.values() for tag, _ in page.elements} == {
        tag for page in harmless.values() for tag, _ in page.elements
    }
    assert "<script>alert(1)</script>" in harmful[name].text
    for page in harmful.values():
        assert not re.search(
            "[\u202e\x1b]", page.text + json.dumps(page.elements, ensure_ascii=False)
        )
        assert all(own.get("src") != "x" for _, own in page.elements)


ODD: dict[str, dict[str, Any]] = {
    "nothing asked": {"asked": {}},
    "nulls": {"asked": dict.fromkeys(("model", "method", "amount", "calibration", "metrics"))},
    "seeds of no kind": {"asked": {"method": {"name": "a"}, "calibration": {"seed": [1, "x"]}}},
    "larger than dense": {"parameters": 300},
    "a block far away": {"plan": (DropBlocks((90_000,)),)},
    "a checkpoint": {"plan": (LoadCheckpoint("x", "y"),)},
    "no value": {"measurements": (Measurement("accuracy/t", None, "acc", "higher"),)},
    "huge": {"measurements": (Measurement("perplexity/t", 1e300, "ppl", "lower", (690.0,) * 3),)},
    "below nothing": {
        "measurements": (
            Measurement("perplexity/t", -1.0, "ppl", "lower", (1.0,) * 3, paired=True),
        )
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_records_of_any_shape_make_pages(changes: dict[str, Any]) -> None:
    """Alone and among sound ones: a board and a case page each, well formed."""
    odd = replace(made(case_id="odd/one"), **changes)

    for records in ([odd], [odd, *shipped()]):
        (page,) = (p for name, p in pages(built(records)).items() if "odd-one" in name)
        assert "odd/one" in page.text


def test_a_hostile_board_downloads_as_plain_data() -> None:
    """Its CSV and JSON parse, with the text as it is, and no cell is a formula."""
    records = [hostile()]
    (board,) = build.boards(records)
    found = built(records)
    (row,) = csv.DictReader(io.StringIO(found[f"boards/{board.name}.csv"].decode()))
    data = json.loads(found[f"boards/{board.name}.json"])

    assert row["method"].startswith("</script><script>alert(1)")
    assert data["rows"][0]["method"] == EVIL
    assert re.fullmatch(r"[A-Za-z0-9._=+@-]+", board.name)


def test_a_board_shows_each_row_with_its_numbers(files: dict[str, bytes]) -> None:
    """Rows by sparsity, dense first; accuracy and rank of each as the board has them."""
    (board,) = build.boards(shipped())
    tree = etree.fromstring(files[f"boards/{board.name}.html"], etree.HTMLParser())
    lines = tree.xpath("//table[@id='board']/tbody/tr[not(@class)]")

    assert len(lines) == len(board.rows) == 17
    for line, row in zip(lines, board.rows, strict=True):
        cells = [" ".join(cell.itertext()).split() for cell in line]
        assert cells[1][0].replace(" ", "") == row.method.split("_")[0] + (
            "_" if "_" in row.method else ""
        )
        flat = " ".join(" ".join(cell) for cell in cells)
        assert f"{row.values['accuracy/mean'].value * 100:.1f}%" in flat
        if not row.dense:
            assert cells[0] == [row.places["accuracy/mean"].text]
            assert f"{1 + row.sparsity:.2f}x" in flat


def test_speedups_of_other_devices_and_shapes_say_whose_they_are() -> None:
    """One row timed on two devices, on one of them in two shapes: the first alone has no name."""
    first = shipped()[2]
    more = tuple(
        replace(m, metric=m.metric.replace("1x64", "8x64"), value=2.5)
        for m in first.measurements
        if "speedup-decode" in m.metric
    )
    gpu = replace(first.environment, device="nvidia-h200")
    both = replace(first, environment=gpu, measurements=(*first.measurements, *more))
    (board,) = build.boards([first, replace(both, created="2020-01-01", key="older")])
    (decode,) = [c for c in columns(board) if c.key == "decode"]
    (row,) = board.rows
    small = decode.cell(row).small

    assert re.findall(r"on [^;]*", small) == ["on nvidia-h200", "on nvidia-h200 8x64+8"]


def test_no_interval_of_a_share_leaves_it(files: dict[str, bytes]) -> None:
    """One empty answer of 32 is 3.1 %, of which a normal interval goes below nothing."""
    low = []
    for name, page in files.items():
        if not name.startswith("cases/"):
            continue
        tree = etree.fromstring(page, etree.HTMLParser())
        for line in tree.xpath("//tr[td]"):
            cells = [" ".join(cell.itertext()).strip() for cell in line]
            if len(cells) > 2 and cells[1].endswith("%") and " to " in cells[2]:
                ends = [float(end.replace(",", "")) for end in cells[2].split(" to ")]
                assert 0 <= ends[0] < ends[1] <= 100 or "recovery" in cells[0], cells
                low.append(ends[0])

    assert 0 in low


def test_a_case_page_has_its_provenance_and_nights(files: dict[str, bytes]) -> None:
    """Commit, versions, weights and question of the record, and its two nights."""
    record = next(r for r in shipped() if r.case_id.endswith("/sleb-0.3"))
    (name,) = (n for n in files if "sleb-0.3" in n)
    page = Page(files[name].decode())

    for told in (record.environment.commit, record.model_hash, "lm_eval 0.4.13", record.key):
        assert told
        assert told in page.text
    assert json.dumps(record.asked["method"])[1:-1] in page.text
    assert "2026-11-20" in page.text
    assert "polyline" in [tag for tag, _ in page.elements]
    steps = etree.fromstring(files[name], etree.HTMLParser()).xpath("//details//tbody/tr")
    assert len([s for s in steps if len(s) == 8]) == len(record.trace)


def test_nights_that_read_the_same_are_drawn_the_same() -> None:
    """The last digits of a float are no history; a change that can be read is drawn whole."""
    record = next(r for r in shipped() if r.case_id.endswith("/sleb-0.3"))
    ppl, *rest = record.measurements
    assert ppl.value is not None
    for change, heights in ((1e-7, ["30.0", "30.0"]), (0.5, ["58.0", "2.0"])):
        now = replace(ppl, value=ppl.value + change)
        older = replace(record, created="2026-11-20T00:00:00+00:00")
        nights = [replace(record, measurements=(now, *rest)), older]
        (curve, *_) = building._curves(nights)
        assert curve.metric.startswith(ppl.metric)
        assert [point.split(",")[1] for point in curve.line.split()] == heights


@pytest.mark.slow
def test_five_hundred_records_are_at_most_a_megabyte_before_data() -> None:
    """Styles, scripts, index, plots and what surrounds tables. Data are the pages of cases, the
    downloads and the bodies of tables, which grow with the records and nothing else.
    """
    found = built(many(500))
    cases = [content for name, content in found.items() if name.startswith("cases/")]
    rest = {
        name: re.sub(rb"<tbody>.*?</tbody>", b"", content, flags=re.DOTALL)
        for name, content in found.items()
        if not name.startswith("cases/") and not name.endswith((".csv", ".json"))
    }

    assert len(cases) == 500
    assert sum(map(len, rest.values())) <= 1_000_000
    assert sum(map(len, cases)) / 500 <= 15_000
    assert sum(map(len, found.values())) <= 12_000_000


def boxes(path: str) -> list[tuple[int, int]]:
    """Block and half of every piece of a path, by where it begins."""
    starts = re.findall(r"M([\d.]+) ([\d.]+)", path)
    return [
        (int(float(x) // block_map_svg.STEP), int(float(y) > block_map_svg.HIGH + 1))
        for x, y in starts
    ]


def test_strips_draw_what_a_plan_says() -> None:
    """Every kind of edit, half by half, with the order of removal."""
    edits = (
        DropBlocks((3, 1)),
        DropSublayers(((0, "mlp"), (2, "attn"))),
        RefitWeights(("model.layers.2.mlp.down_proj",)),
        MergeBlocks(((4, 6),)),
    )
    drawn = block_map_svg.draw(edits, 8, 0)
    gone = [(0, 1), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (5, 0), (5, 1), (6, 0), (6, 1)]
    assert boxes(drawn.removed) == gone
    assert boxes(drawn.merged) == [(4, 0), (4, 1)]
    assert boxes(drawn.whole) == [(0, 0), (2, 1), (7, 0), (7, 1)]
    assert boxes(drawn.dots) == [(2, 1)]
    orders = {int(x // block_map_svg.STEP): text for x, _, text in drawn.labels}
    assert [orders[block] for block in (3, 1, 0, 2)] == ["1", "2", "3", "4"]
    assert drawn.width == 8 * block_map_svg.STEP

    sliced = block_map_svg.draw((SliceHidden((80, 60, 40, 40)),), 2, 80)
    heights = [float(h) for h in re.findall(r"v([\d.]+)", sliced.kept)]
    assert heights == [block_map_svg.HIGH * part for part in (1.0, 0.75, 0.5, 0.5)]
    assert not block_map_svg.draw((LoadCheckpoint("x", "y"),), 8, 0).drawn


def drawn(plot: plots.Plot) -> str:
    """The plot as the page of a board has it."""
    macros = building._environment("").get_template("plot.html").module
    return str(macros.draw(plots.draw(plot, sorted({p.method for p in plot.points}))))


def test_a_plot_names_its_points_and_takes_its_colours_from_the_page() -> None:
    """Valid XML with a title, a tooltip for each point, and no colour or style of its own."""
    points = tuple(
        plots.Point(float(i), i * 2.0, f"$m{i}_<b>", f"point {i} <&>", i - 0.5, i + 0.5)
        for i in range(4)
    )
    plot = plots.Plot("p", "T <&>", "D", "x", "y", points, (3,))
    text = drawn(plot)
    root = etree.fromstring(text)
    titles = [t.text for t in root.iter("{*}title")]

    assert titles[0] == "T <&>"
    assert titles[1:] == [p.text for p in points]
    assert "style" not in text
    assert set(re.findall("#[0-9a-f]{6}", text)) == set()
    assert drawn(plot) == text


@pytest.mark.parametrize("log", [False, True])
def test_points_lie_where_the_ticks_say(log: bool) -> None:
    """Two labelled ticks of each axis give its scale, which every mark and interval follows."""
    points = (
        plots.Point(0.1, 1.7, "a", "a", 1.2, 4.4),
        plots.Point(0.4, 8.0, "b", "b", 5.0, 16.0),
        plots.Point(0.5, 620.0, "c", "c", 500.0, 700.0),
    )
    plot = plots.Plot("p", "T", "D", "x", "y", points, (0,), log=log)
    d = plots.draw(plot, ["a", "b", "c"])

    def read(pixel: float, ticks: list[tuple[float, str]], *, log: bool) -> float:
        ends = [(at, float(text)) for at, text in (ticks[0], ticks[-1])]
        (at, low), (end, high) = [(p, math.log(v) if log else v) for p, v in ends]
        value = low + (high - low) * (pixel - at) / (end - at)
        return math.exp(value) if log else value

    for point, mark in zip(points, d.marks, strict=True):
        heights = [float(end.split()[1]) for end in mark.bar[1:].split("L")]
        assert read(mark.x, d.x_ticks, log=False) == pytest.approx(point.x, abs=0.002)
        for pixel, value in zip((mark.y, *heights), (point.y, point.low, point.high), strict=True):
            near = {"rel": 0.02} if log else {"abs": 3.0}
            assert read(pixel, d.y_ticks, log=log) == pytest.approx(value, **near)
        assert d.left < mark.x < plots.RIGHT
        assert plots.TOP < min(heights) < mark.y < max(heights) < plots.BOTTOM


def test_an_interval_down_to_nothing_ends_at_the_axis() -> None:
    """A perplexity over seeds may reach zero, which a scale of powers has not."""
    points = (
        plots.Point(0, 2.3, "a", "a", 2.2, 2.4),
        plots.Point(16, 8.0, "b", "b", 0.0, 16.0),
        plots.Point(33, 6000.0, "c", "c", 5000.0, 7000.0),
    )
    root = etree.fromstring(drawn(plots.Plot("p", "T", "D", "x", "y", points, (0,), log=True)))
    hued = [p.get("d") for p in root.iter("{*}path") if (p.get("class") or "")[:3] == "s-s"]
    bars = [found for d in hued if (found := re.fullmatch(r"M\S+ (\S+)L\S+ (\S+)", d))]
    heights = [float(y) for bar in bars for y in bar.groups()]

    assert len(bars) == 3
    assert plots.TOP <= min(heights) < max(heights) <= plots.BOTTOM


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("ends", [(1e-99, 9e99), (5.0, 5.0), (7e16, 7e16 + 16), (3.0, 14.0)])
def test_values_of_any_size_are_drawn(ends: tuple[float, float], log: bool) -> None:
    """Somebody else's records may hold any number; equal ones have an axis too."""
    points = tuple(plots.Point(y, y, "m", "m", y / 2, math.inf) for y in ends)
    d = plots.draw(plots.Plot("p", "T", "D", "x", "y", points, (0,), log=log), ["m"])

    assert 2 <= len(d.x_ticks) <= 12
    assert 1 <= len(d.y_ticks) <= 14
    assert all(d.left <= m.x <= plots.RIGHT and plots.TOP <= m.y <= plots.BOTTOM for m in d.marks)


@pytest.mark.filterwarnings("error")
def test_plots_of_any_method_are_drawn() -> None:
    """Names too long for a line, with control characters, or in letters of no font at hand."""
    names = ["x" * 300, "a\x1b[31m", "\u202eevil", "日本語", "$x$", "_lead", ""]
    records = [
        replace(record, case_id=f"c/{i}", asked={**record.asked, "method": {"name": name, "n": i}})
        for i, (name, record) in enumerate(zip(names, shipped()[::2], strict=False))
    ]
    (board,) = build.boards(records)

    page = pages(built(records))[f"boards/{board.name}.html"]

    assert [tag for tag, _ in page.elements].count("figure") == 2
    assert "日本語" in page.text


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: (lighter + 0.05) / (darker + 0.05) of relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_enough_light_and_dark() -> None:
    """Text on each background 4.5:1, what is drawn 3:1."""
    style = (Path(site.__file__).parent / "static" / "site.css").read_text()
    blocks = re.findall(r"color-scheme: (light|dark);(.*?)\}", style, re.DOTALL)

    assert [name for name, _ in blocks] == ["light", "dark", "dark"]
    assert blocks[1][1].split() == blocks[2][1].split()
    for name, block in blocks:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for back in ("paper", "soft"):
            for text in ("ink", "muted", "link"):
                assert contrast(colours[text], colours[back]) >= 4.5, (name, text, back)
        for drawn in ("front", "kept", "muted", *(f"s{i}" for i in range(plots.HUES))):
            assert contrast(colours[drawn], colours["paper"]) >= 3, (name, drawn)


@pytest.mark.slow
def test_writes_again_over_its_own_site_only(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Pages that are no longer built go; a folder of other things is refused in one line."""
    folder = tmp_path / "site"

    assert cli("leaderboard", SMOKE, "--site", folder)[0] == 0
    assert len(list((folder / "cases").iterdir())) == 17
    assert cli("leaderboard", SMOKE / "tinyworld" / "dense.json", "--site", folder)[0] == 0
    assert [p.name[:22] for p in (folder / "cases").iterdir()] == ["smoke-tinyworld-dense-"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    code, _, err = cli("leaderboard", SMOKE, "--site", tmp_path / "other")
    assert (code, len(err.splitlines())) == (2, 1)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.tex"]
