"""Notices: one message per change, to a web server of our own on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from factories import accuracy, read, record

from prunebench import Tolerance
from prunebench.reports import notices
from prunebench.reports.notices import Known, Notice, State
from prunebench.results.store import Store
from prunebench.system import files, webhook
from prunebench.verdicts.verdict import Finding, Outcome, Verdict, compare

SECRET = "T0/B0/very-secret"  # noqa: S105


class Hook(ThreadingHTTPServer):
    """Keeps what is posted; *answers* are the codes of the next requests, then 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posts: list[dict] = []
        self.answers: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/services/{SECRET}"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        code = self.server.answers.pop(0) if self.server.answers else 200
        if code == 200:
            assert self.headers["Content-Type"] == "application/json"
            self.server.posts.append(json.loads(body))
        self.send_response(code)
        if code in (302, 429):
            self.send_header("Location", "/elsewhere")
            self.send_header("Retry-After", "7")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """A web server in a thread of its own, which ends with the test; waits take no time."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    waits: list[float] = []
    monkeypatch.setattr(webhook.time, "sleep", waits.append)
    server.waits = waits  # type: ignore[attr-defined]
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


WAS = record(accuracy(90))


class Nights:
    """A results folder with nights of one case, and the results file of the newest."""

    def __init__(self, folder: Path, cli, hook: Hook) -> None:
        self.store, self.file = folder / "store", folder / "nightly.json"
        self.cli, self.hook = cli, hook
        self.day = 0

    def night(self, right: int | None = 90, *more: Verdict) -> tuple[int, str, list[str]]:
        """Run a night that answers *right* questions of 100, or crashes; what was posted."""
        self.day += 1
        made = record(accuracy(right or 0), key="k", created=f"2026-11-{self.day:02}T02:00:00")
        verdicts = [compare(made, WAS, lambda _: Tolerance(abs=0.01)), *more]
        records = [made]
        if right is None:
            verdicts, records = [Verdict("a/b", ok=False, error="out of memory"), *more], []
        else:
            Store(self.store).save(made)
        files.write_json(self.file, {"records": records, "verdicts": verdicts, "intervals": []})
        return self.notify()

    def notify(self, *options: object) -> tuple[int, str, list[str]]:
        before = len(self.hook.posts)
        given = ("--store", self.store, *options)
        code, out, err = self.cli("notify", self.file, "--webhook", self.hook.url, *given)
        assert SECRET not in out + err
        return code, out + err, [p["text"] for p in self.hook.posts[before:]]


@pytest.fixture
def nights(tmp_path: Path, cli, hook: Hook) -> Nights:
    return Nights(tmp_path, cli, hook)


def test_a_message_per_change_and_none_per_night(nights: Nights) -> None:
    """Worse is told once, however long it lasts; recovery once; a crash and its end once each."""
    assert nights.night(90) == (0, "nothing changed since the last message\n", [])
    code, _, posted = nights.night(60)
    assert code == 0
    assert len(posted) == 1
    assert posted[0].startswith("a/b: worse accuracy/t: 0.6000, was 0.9000 (-0.3)")
    assert nights.notify()[2] == []  # the same night again
    assert nights.night(60)[2] == []  # and another like it
    assert len(nights.night(90)[2]) == 1
    assert nights.night(None)[2] == ["a/b: crashed: out of memory"]
    assert nights.night(None)[2] == []
    assert nights.night(90)[2] == ["a/b: recovered: runs again"]
    assert nights.night(90)[2] == []


def test_recovery_is_one_message(nights: Nights) -> None:
    """It names the metric and both numbers."""
    nights.night(60)
    posted = nights.night(90)[2]

    assert len(posted) == 1
    assert posted[0].startswith("a/b: recovered: same accuracy/t: 0.9000, was 0.9000")


def test_a_metric_that_is_worse_when_a_crash_ends_is_not_told_again(nights: Nights) -> None:
    """What was known before the crash stays known."""
    nights.night(60)
    nights.night(None)

    assert nights.night(60)[2] == ["a/b: recovered: runs again"]


def test_a_step_in_the_history_is_told_once(nights: Nights) -> None:
    """Within tolerance no verdict says a word; the level has changed nevertheless."""
    told = [nights.night(right)[2] for right in (90,) * 6 + (89,) * 6]
    flat = [text for posted in told for text in posted]

    assert len(flat) == 1
    assert "a/b: accuracy/t: step down 0.9000 -&gt; 0.8900 at 2026-11-07" in flat[0]
    back = [text for right in (90,) * 6 for text in nights.night(right)[2]]
    assert len(back) == 1
    assert "step up" in back[0]


def test_what_could_not_be_posted_is_told_the_next_time(nights: Nights, hook: Hook) -> None:
    """A server error is tried again; one that lasts fails in one line and nothing is forgotten."""
    nights.night(90)
    hook.answers = [500, 503]
    assert len(nights.night(60)[2]) == 1
    assert hook.waits == [1.0, 4.0]

    hook.answers = [500] * 4
    code, said, posted = nights.night(90)
    assert (code, posted) == (3, [])
    assert (
        said
        == "not posted: http://127.0.0.1/... answered 500; 1 message will be posted the next time\n"
    )
    assert len(nights.notify()[2]) == 1
    assert nights.notify()[2] == []


def test_only_what_was_posted_counts_as_told(nights: Nights, hook: Hook) -> None:
    """Two changes of which the second is refused: the first is not told twice."""
    worse = Verdict("a/c", ok=False, error="no memory")
    hook.answers = [200, 404]
    code, said, posted = nights.night(60, worse)
    assert code == 3
    assert "answered 404; 1 message will be posted" in said
    assert hook.waits == []  # such an answer does not become another by waiting
    assert [p[:4] for p in posted] == ["a/b:"]

    assert nights.notify()[2] == ["a/c: crashed: no memory"]


def test_a_server_may_say_how_long_to_wait_and_not_send_elsewhere(
    nights: Nights, hook: Hook
) -> None:
    """Retry-After is kept; a redirect, which would turn the post into a read, is a failure."""
    hook.answers = [429]
    assert len(nights.night(60)[2]) == 1
    assert hook.waits == [7.0]
    hook.answers = [302]
    assert nights.night(90)[0] == 3


def test_a_lost_state_tells_what_is_bad_now_and_no_old_step(nights: Nights) -> None:
    """Also where the file is there and damaged."""
    for right in (90,) * 6 + (60,) * 6:
        nights.night(right)
    place = notices.path(nights.store)
    place.unlink()
    assert [p.split(",")[0] for p in nights.notify()[2]] == ["a/b: worse accuracy/t: 0.6000"]
    place.write_text("{")
    code, said, posted = nights.notify()
    assert (code, len(posted)) == (0, 1)
    assert "what is bad now is reported again" in said


def test_nobody_listens(nights: Nights, cli, hook: Hook, tmp_path: Path) -> None:
    """A port where there is no server: one line, exit 3, the address not shown."""
    nights.night(90)
    hook.server_close()
    hook.shutdown()
    code, said, _ = nights.night(60)

    assert code == 3
    assert said.startswith("not posted: http://127.0.0.1/... ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "secret", "http://", "https://h/a b", "x:y"])
def test_an_address_that_is_none_is_refused_and_not_shown(
    cli, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read; from the environment as from the option."""
    monkeypatch.setenv("PRUNEBENCH_WEBHOOK", url)
    code, out, err = cli("notify", tmp_path / "absent.json")

    assert (code, out) == (2, "")
    assert err == "the webhook is not an address that begins with https:// or http://\n"


def test_dry_run_posts_and_remembers_nothing(nights: Nights, cli, hook: Hook) -> None:
    """It prints the messages, and --json writes them."""
    nights.night(90)
    nights.file.write_bytes(
        files.as_json({"records": [], "verdicts": [Verdict("a/b", ok=False, error="x <b> & y")]})
    )
    for _ in range(2):
        given = (
            "--store",
            nights.store,
            "--json",
            nights.store / "o.json",
            "--link",
            "https://e.x/1",
        )
        code, out, err = cli("notify", nights.file, "--dry-run", *given)
        assert (code, err) == (0, "")
        assert out == "a/b: crashed: x <b> & y\nhttps://e.x/1\n1 change, 1 message not posted\n"
    data = read(nights.store / "o.json")
    assert data["changes"][0]["kind"] == "crashed"
    (message,) = data["messages"]
    assert message["text"] == "a/b: crashed: x &lt;b&gt; &amp; y"
    texts = [block["text"]["text"] for block in message["blocks"]]
    assert texts == [message["text"], "<https://e.x/1|more>"]
    assert hook.posts == []
    assert cli("notify", nights.file, "--dry-run", "--link", "https://e.x/|<!channel>")[0] == 2


def test_no_address_is_said(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNEBENCH_WEBHOOK", raising=False)
    code, _, err = cli("notify", tmp_path / "x.json")

    assert code == 2
    assert "PRUNEBENCH_WEBHOOK" in err
    code, _, err = cli("notify", tmp_path / "x.json", "--dry-run", "--store", tmp_path)
    assert code == 2
    assert "x.json: cannot be read" in err


# --------------------------------------------------------------------------------- pure


def verdict(*findings: tuple[str, str], case_id: str = "a/b", **more: object) -> Verdict:
    found = tuple(Finding(what, Outcome(outcome)) for what, outcome in findings)
    return Verdict(case_id, ok=True, findings=found, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "now", "kinds"),
    [
        ("", "same", []),
        ("", "unsure", []),
        ("", "new", []),
        ("", "better", []),
        ("", "worse", ["worse"]),
        ("", "gone", ["gone"]),
        ("", "changed_plan", ["changed plan"]),
        ("", "not_comparable", ["not comparable"]),
        ("worse", "worse", []),
        ("worse", "unsure", []),
        ("worse", "same", ["recovered"]),
        ("worse", "better", ["recovered"]),
        ("worse", "gone", ["gone"]),
        ("not_comparable", "same", ["comparable again"]),
        ("not_comparable", "worse", ["worse"]),
        ("fails", "same", ["recovered"]),
    ],
)
def test_what_is_a_change(before: str, now: str, kinds: list[str]) -> None:
    """Each outcome after each, and that telling it leaves nothing to tell."""
    state = State({"a/b": Known({"m/t": before} if before else {})})
    found = notices.changes([verdict(("m/t", now))], state)

    assert [n.kind for n in found] == kinds
    for notice in found:
        notice.remember(state)
    assert notices.changes([verdict(("m/t", now))], state) == []


def test_what_is_not_known_tonight_changes_nothing() -> None:
    """A skipped case, one that cannot be compared, and one measured for an interval."""
    state = State({"a/b": Known({"m/t": "worse"})})
    hidden = verdict(("case", "not_comparable"))

    assert notices.changes([verdict(skipped="no GPU")], state) == []
    assert notices.changes([verdict(("m/t", "same"), seed_of="a/b0")], state) == []
    assert [n.what for n in notices.changes([hidden], state)] == ["case"]
    gone = notices.changes([verdict(("m/u", "same"))], state)
    assert [n.text for n in gone] == ["recovered: m/t is no longer reported"]


def test_a_condition_that_holds_is_told_until_it_does_not() -> None:
    """Whatever the outcome beside it: what fails is kept as failing."""
    state = State()
    holds = Finding("m/t: now < 0.9", Outcome.WORSE, now=0.8, fails=True)
    (told,) = notices.changes([Verdict("a/b", ok=False, findings=(holds,))], state)
    told.remember(state)

    assert (told.kind, told.outcome) == ("worse", "fails")
    assert state.cases["a/b"].bad == {"m/t: now < 0.9": "fails"}
    assert notices.changes([Verdict("a/b", ok=False, findings=(holds,))], state) == []
    over = verdict(("m/t: now < 0.9", "same"))
    assert [n.kind for n in notices.changes([over], state)] == ["recovered"]


def test_a_state_that_somebody_edited_is_read_as_far_as_it_goes() -> None:
    """A step without its night is no step, and the next one is told."""
    from prunebench.verdicts.history import Change, History, Point, Series

    days = tuple(Point(f"2026-11-{day:02}", None, 1.0) for day in range(1, 21))
    series = Series("m/t", "", "higher", days, (Change(10, 1.0, 0.5, worse=True),))
    past = History("a/b", "cpu", (series,), ())
    for steps, count in (
        (["down"], 1),
        ([""], 1),
        (["down 2026-11-11"], 0),
        (["up 2026-11-11"], 1),
    ):
        state = State({"a/b": Known(steps={"m/t": steps})})
        found = notices.stepped([past], state, lambda *_: "a step")
        assert [n.at for n in found] == ["down 2026-11-11"] * count
    for day, count in (("08", 0), ("07", 1), ("14", 0), ("15", 1)):
        state = State({"a/b": Known(steps={"m/t": [f"any 2026-11-{day}"]})})
        assert len(notices.stepped([past], state, lambda *_: "a step")) == count


def test_a_diagnostic_finding_is_no_news() -> None:
    found = Finding("m/t", Outcome.WORSE, diagnostic=True)

    assert notices.changes([Verdict("a/b", ok=True, findings=(found,))], State()) == []


def test_many_changes_become_few_messages() -> None:
    """Up to five one each; then one per case; beyond ten cases a summary of the rest."""

    def some(cases: int, each: int) -> list[Notice]:
        return [
            Notice(f"c/{i}", f"m/{k}", "worse", "worse it is", "worse")
            for i in range(cases)
            for k in range(each)
        ]

    assert [len(m.notices) for m in notices.messages(some(5, 1))] == [1] * 5
    assert [len(m.notices) for m in notices.messages(some(3, 4))] == [4] * 3
    many = notices.messages(some(40, 2))
    assert [len(m.notices) for m in many] == [2] * 9 + [62]
    assert many[-1].text.startswith("62 more changes in 31 cases:\nc/9: 2 worse\n")
    assert many[-1].text.endswith("and 11 more cases")


def test_payloads_keep_slacks_limits() -> None:
    """3,000 characters a section, 50 blocks, no entity cut in two, nothing that Slack acts on."""
    text = "\n".join("<!channel> & " * 70 for _ in range(400))
    payload = notices.Message(text, (), "https://example.org/run").payload()
    sections = [block["text"]["text"] for block in payload["blocks"]]

    assert len(sections) == 50
    assert max(map(len, sections)) <= 3000
    assert sections[-1] == "<https://example.org/run|more>"
    for section in sections[:-1]:
        assert not {"<", ">"} & set(section)
        rest = section.replace("&lt;", "").replace("&gt;", "").replace("&amp;", "")
        assert "&" not in rest
    assert len(payload["text"]) <= 1500


@pytest.mark.parametrize("link", ["", "https://ci.example/1"])
def test_every_payload_is_one_that_slack_takes(link: str) -> None:
    """At most 50 blocks, the link among them, of at most 3,000 characters each; none half empty."""
    for count in range(47, 53):
        payload = notices.Message("\n".join(["x" * 600] * 4 * count), (), link).payload()
        assert len(payload["blocks"]) <= 50
        assert len(payload["blocks"]) >= min(count, 49)
    for size in (428, 499, 599, 600):  # 7 of 428 are 3,002 with what is between them
        texts = [
            block["text"]["text"]
            for block in notices.Message("\n".join(["x" * size] * 20), ()).payload()["blocks"]
        ]
        assert max(map(len, texts)) <= 3000 < max(map(len, texts)) + 1 + size


def test_a_message_is_one_line_per_change() -> None:
    """Line ends and control characters of a case's error do nothing."""
    (message,) = notices.messages([Notice("a/b", "case", "crashed", "crashed: a\nb\x1b[31m")])

    assert message.text == "a/b: crashed: a\\nb\\x1b[31m"
