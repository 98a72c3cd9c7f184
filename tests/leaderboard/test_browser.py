"""The site as a person uses it, in headless Chromium from files; skipped where there is none."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sites import built, hostile, shipped

from prunebench.leaderboard import build, site

pytestmark = pytest.mark.slow

NEEDED = os.environ.get("PRUNEBENCH_NEED_CHROMIUM") == "1"
sync_api: Any = (
    importlib.import_module("playwright.sync_api")
    if NEEDED
    else pytest.importorskip("playwright.sync_api")
)


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None and NEEDED:
        pytest.fail("PRUNEBENCH_NEED_CHROMIUM is set and there is no Chromium")
    if found is None:
        pytest.skip("no Chromium on the path (Debian's package chromium)")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    site.write(folder, built([*shipped(), hostile()]))
    return folder


@pytest.fixture(scope="module")
def board(folder: Path) -> str:
    (found,) = build.boards(shipped())
    return (folder / "boards" / f"{found.name}.html").as_uri()


class Watch:
    """What a page asked for and complained of."""

    def __init__(self, page: Any) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: (self.errors.append("dialog"), dialog.dismiss()))


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A wide light page; afterwards nothing was fetched but files and nothing complained."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    opened = context.new_page()
    watch = Watch(opened)
    yield opened
    context.close()
    assert watch.errors == []
    assert watch.requests
    assert all(url.startswith(("file://", "data:,")) for url in watch.requests), watch.requests


def column(page: Any, key: str) -> list[float]:
    """The numbers of a column, of the rows that are shown, from top to bottom."""
    script = """key => { const heads = [...document.querySelectorAll('#board thead th')];
        const at = heads.findIndex(h => h.dataset.key === key);
        return [...document.querySelectorAll('#board tbody tr:not(.group):not([hidden])')]
            .map(r => r.cells[at].dataset.v).filter(v => v !== undefined).map(Number); }"""
    return list(page.evaluate(script, key))


def test_a_header_sorts_up_down_and_back(page: Any, board: str) -> None:
    """A click sorts ascending, the next descending, the third restores; aria-sort says which."""
    page.goto(board)
    before = column(page, "value0")
    head = page.locator("#board thead th[data-key=value0]")
    seen = []
    for _ in range(3):
        head.locator("button").click()
        seen.append((head.get_attribute("aria-sort"), column(page, "value0")))

    assert seen[0] == ("ascending", sorted(before))
    assert seen[1] == ("descending", sorted(before, reverse=True))
    assert seen[2] == (None, before)
    assert before != sorted(before)


def test_groups_stand_only_over_their_own_order(page: Any, board: str) -> None:
    """Sorted by a column the headings of groups disappear, and come back."""
    page.goto(board)
    groups = page.locator("#board tr.group:visible")
    whole = groups.count()
    button = page.locator("#board thead th[data-key=value0] button")
    button.click()

    assert (whole, groups.count()) == (4, 0)
    button.click()
    button.click()
    assert groups.count() == whole


def test_filters_narrow_and_say_how_much_is_left(page: Any, board: str) -> None:
    """Text, method, sparsity and device together; a status tells the count."""
    page.goto(board)
    rows = page.locator("#board tbody tr:not(.group):visible")

    page.get_by_label("Find").fill("CRITERION ppl")
    assert rows.count() == 2
    page.get_by_role("combobox", name="Removed").select_option(index=2)
    assert rows.count() == 1
    assert page.locator("#count").inner_text() == "1 of 17 rows"
    page.get_by_label("Find").fill("")
    page.get_by_role("combobox", name="Removed").select_option(index=0)
    page.get_by_role("combobox", name="Method").select_option("slicegpt")
    assert rows.count() == 2
    page.get_by_role("combobox", name="Device").select_option("cpu")
    assert rows.count() == 2


def test_filters_take_any_name(page: Any, tmp_path: Path) -> None:
    """A name with a bar in it, with spaces to fold, and devices of such names."""
    records = [
        replace(
            record,
            case_id=f"c/{i}",
            asked={**record.asked, "method": {"name": name}},
            environment=replace(record.environment, device=f"dev|{i % 2}  x"),
        )
        for i, (name, record) in enumerate(
            zip(["a|b", "a  b", "a b"], shipped()[::2], strict=False)
        )
    ]
    files = built(records)
    site.write(tmp_path / "site", files)
    (path,) = (tmp_path / "site" / "boards").glob("*.html")
    page.goto(path.as_uri())
    rows = page.locator("#board tbody tr:not(.group):visible")
    for name, count in (("Method", (3, 1, 1, 1)), ("Device", (3, 2, 1))):
        box = page.get_by_role("combobox", name=name)
        for index, expected in enumerate(count):
            box.select_option(index=index)
            assert rows.count() == expected, (name, index)
        box.select_option(index=0)


def test_more_columns_on_request(page: Any, board: str) -> None:
    """Tasks are hidden until asked for."""
    page.goto(board)
    task = page.locator("#board thead th.c-tasks").first

    assert not task.is_visible()
    page.get_by_label("tasks").check()
    assert task.is_visible()


def test_a_case_opens_and_shows_where_it_comes_from(page: Any, board: str) -> None:
    """One click from the table to the provenance, and one back."""
    page.goto(board)
    page.locator("#board").get_by_role("link", name="sleb").first.click()

    assert page.locator("h1").inner_text().startswith("smoke/tinyworld/sleb")
    assert page.locator("#provenance").get_by_text("transformers").is_visible()
    page.get_by_role("navigation").get_by_role("link", name="prunebench/reference").click()
    assert page.url == board


def test_works_by_keyboard_alone(page: Any, board: str) -> None:
    """Skip link first, every stop has a visible focus, Enter sorts and opens."""
    page.goto(board)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "find"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    for _ in range(40):
        page.keyboard.press("Tab")
        assert page.evaluate(outline) == "solid"
        if page.evaluate("document.activeElement.closest('th')?.dataset.key") == "value0":
            break
    page.keyboard.press("Enter")
    assert column(page, "value0") == sorted(column(page, "value0"))
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "A":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/cases/*")
    assert page.locator("h1").is_visible()


def test_no_page_scrolls_sideways_on_a_phone(page: Any, folder: Path) -> None:
    """At 375 pixels every page keeps to its width; tables scroll inside themselves."""
    page.set_viewport_size({"width": 375, "height": 800})
    for path in sorted(folder.rglob("*.html")):
        page.goto(path.as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 375, path.name


def test_long_names_stay_within_a_phone(page: Any, tmp_path: Path) -> None:
    """A method of three hundred letters, on its board and where other cases name it."""
    records = shipped()
    longest = [
        replace(r, asked={**r.asked, "method": {"name": "x" * 300, "n": "v" * 90}})
        for r in records
        if r.case_id.endswith("/sleb-0.3")
    ]
    others = [r for r in records if not r.case_id.endswith("/sleb-0.3")]
    site.write(tmp_path / "site", built([*others, *longest]))
    page.set_viewport_size({"width": 375, "height": 800})
    for path in sorted((tmp_path / "site").rglob("*.html")):
        page.goto(path.as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 375, path.name


def test_dark_by_system_and_by_choice(page: Any, board: str) -> None:
    """The system's scheme decides, the button overrules it, and every page keeps the choice."""
    back = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('.plot text, .plot .f-ink')).fill"
    page.goto(board)
    light = page.evaluate(back), page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(back), page.evaluate(ink)
    assert not {*light} & {*dark}
    button = page.locator("#theme")
    button.click()
    assert button.inner_text() == "Theme: light"
    assert page.evaluate(back) == light[0]
    button.click()
    page.emulate_media(color_scheme="light")
    assert page.evaluate(back) == dark[0]
    page.reload()
    assert page.evaluate(back) == dark[0]


def test_prints_dark_on_light(page: Any, board: str) -> None:
    """Whatever the theme; without controls, and with nothing cut off that scrolls on a screen."""
    ink = "getComputedStyle(document.body).color"
    page.goto(board)
    light = page.evaluate(ink)
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.evaluate(ink) != light
    page.emulate_media(media="print", color_scheme="dark")

    assert page.evaluate(ink) == light
    assert not page.locator("#controls").is_visible()
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    )


def test_a_hostile_record_runs_nothing(page: Any, folder: Path) -> None:
    """Its page and board open, with its text in the heading and no dialog (the fixture looks)."""
    (path,) = (p for p in folder.glob("cases/*") if "evil" in p.name)
    page.goto(path.as_uri())
    page.get_by_role("navigation").get_by_role("link").last.click()

    assert "<script>alert(1)</script>" in page.locator("h1").inner_text()
    assert page.evaluate("document.querySelectorAll('img').length") == 0


def test_reads_whole_without_scripts(browser: Any, board: str) -> None:
    """The table, its rows and the links are there when scripts are off."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(board)

    assert page.locator("#board tbody tr:not(.group)").count() == 17
    assert not page.locator("#controls").is_visible()
    context.close()
