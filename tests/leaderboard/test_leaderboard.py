from __future__ import annotations

import itertools
import json
import math
import random
import shutil
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from factories import CPU, QUESTIONS, ROOT
from factories import board_case as case
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from prunebench import DropBlocks, Measurement, Record
from prunebench.cli.leaderboard import print_board
from prunebench.errors import PrunebenchError
from prunebench.leaderboard import build, ranking
from prunebench.leaderboard.board import plain
from prunebench.results import archive
from prunebench.results.baselines import published
from prunebench.results.baselines.files import Baselines
from prunebench.results.store import Store
from prunebench.system.console import InertConsole
from prunebench.verdicts.evidence import evidence


def answers(right: Sequence[int], of: int = 200) -> Measurement:
    """Right on these questions, wrong on all others."""
    samples = tuple(float(i in set(right)) for i in range(of))
    value = sum(samples) / of
    return Measurement("accuracy/t", value, "acc", "higher", samples, paired=True)


def ranks(records: Sequence[Record]) -> dict[str, str]:
    (board,) = build.boards(records)
    return {r.record.case_id: r.places[board.rank_by[0]].text for r in board.rows}


def test_a_rank_is_one_more_than_the_number_that_are_significantly_better() -> None:
    """By hand: 8 questions that only one of two answers are p = 2 / 2^8, of three tests 3 * that
    at most; 4 are p = 2 / 2^4, which is chance. A share of 1 with B, and C is worse than both.
    """
    a, b = case("a", answers(range(100))), case("b", answers(range(96)))
    c = case("c", answers(range(86)))

    assert 3 * 2 / 2**10 < 0.05 < 2 / 2**4
    assert ranks([a, b, c]) == {"c/a-20": "1\N{EN DASH}2", "c/b-20": "1\N{EN DASH}2", "c/c-20": "3"}


def test_two_sided_p_is_twice_the_binomial_tail() -> None:
    """12 questions one way and 3 the other: the sign test's closed form."""
    first = case("a", answers([*range(100), *range(120, 132)]))
    second = case("b", answers([*range(100), *range(150, 153)]))
    tail = sum(math.comb(15, k) for k in range(12, 16)) / 2**15

    (seen,) = ranking.tests([[first], [second]], [[0, 1]], "accuracy/t")

    assert (seen.p, seen.first_better) == (pytest.approx(2 * tail), True)


def test_holm_over_the_whole_board() -> None:
    """One pair at p = 2 / 2^6 differs alone, and not among the pairs of ten methods."""
    pair = [case("a", answers(range(60))), case("b", answers(range(54)))]
    crowd = [case(f"x{i}", answers(range(60))) for i in range(8)]

    assert 2 / 2**6 < 0.05
    assert ranks(pair) == {"c/a-20": "1", "c/b-20": "2"}
    assert set(ranks([*pair, *crowd]).values()) == {"1\N{EN DASH}10"}


def test_margins_rank_nothing() -> None:
    """Two models that answer every question alike share a rank, however sure one of them is."""
    a, b = answers(range(100)), answers(range(100))
    sure, unsure = replace(a, margins=(9.0,) * 200), replace(b, margins=(0.1,) * 200)

    assert set(ranks([case("a", sure), case("b", unsure)]).values()) == {"1\N{EN DASH}2"}


def test_a_rank_never_contradicts_the_number_beside_it() -> None:
    """Most windows a little better and one much worse: signed ranks say better, the mean worse."""
    few = tuple([1.9] * 30 + [9.0])
    even = tuple([2.0] * 31)
    a, b = (
        Measurement("perplexity/t", math.exp(sum(s) / len(s)), "ppl", "lower", s, paired=True)
        for s in (few, even)
    )
    assert a.value is not None
    assert b.value is not None
    assert a.value > b.value

    (seen,) = ranking.tests([[case("a", a)], [case("b", b)]], [[0, 1]], "perplexity/t")

    assert seen.p == 1.0


@pytest.mark.slow
@given(st.lists(st.floats(-0.5, 0.5, width=32), min_size=4, max_size=30), st.randoms())
@settings(deadline=None, max_examples=40)
def test_windows_are_tested_as_verdicts_test_them(moved: list[float], draw: random.Random) -> None:
    """Twice the one-sided p-value that the judgement of the worse against the better gives."""
    base = [2 + draw.random() for _ in moved]
    a, b = (
        Measurement(
            "perplexity/t", math.exp(sum(s) / len(s)), "ppl", "lower", tuple(s), paired=True
        )
        for s in (base, [x + m for x, m in zip(base, moved, strict=True)])
    )
    now, was = (a, b) if (a.value or 0) > (b.value or 0) else (b, a)
    judged = evidence(now, was)
    (seen,) = ranking.tests([[case("a", a)], [case("b", b)]], [[0, 1]], "perplexity/t")

    assert judged is not None
    single = [array("f", m.samples) for m in (a, b)]
    sizes = {abs(x - y) for x, y in zip(*single, strict=True)} - {0.0}
    if len(sizes) != 1:  # differences of one size take the sign test
        assert seen.p == pytest.approx(min(1.0, 2 * judged.p))


def seeded(name: str, rights: Sequence[int]) -> list[Record]:
    """A method over calibration seeds; each seed is right on that many questions."""
    drawn = ({"calibration": {"dataset": "d", **({"seed": i} if i else {})}} for i in range(9))
    return [
        case(name, answers(range(right)), asked=asked, case_id=f"c/{name}-seed{i}")
        for i, (right, asked) in enumerate(zip(rights, drawn, strict=False))
    ]


def test_seeds_are_one_row_whose_interval_covers_them() -> None:
    """Student's interval over four seeds with the questions' standard error, by hand."""
    rights = [100, 120, 110, 130]
    (board,) = build.boards(seeded("a", rights))
    (row,) = board.rows
    mean = sum(rights) / 4 / 200
    deviation = math.sqrt(sum((r / 200 - mean) ** 2 for r in rights) / 3)
    # As the seeds module has it: the first seed's answers, a clustered error with n / (n - 1).
    first = 0.5
    questions = 1.959964 * math.sqrt(first * (1 - first) / 199)
    half = math.hypot(3.182446 * deviation / 2, questions)

    value = row.values["accuracy/t"]

    assert len(row.records) == 4
    assert value.value == pytest.approx(mean)
    assert (value.low, value.high) == (pytest.approx(mean - half), pytest.approx(mean + half))


def test_what_questions_tell_and_seeds_do_not_is_no_difference() -> None:
    """Means far apart over questions, but seeds that scatter as far: a shared rank."""
    wild, steady = seeded("a", [60, 180, 40, 170]), seeded("b", [90, 91, 90, 89])
    firm = seeded("a", [180, 181, 180, 179])

    assert set(ranks([*wild, *steady]).values()) == {"1\N{EN DASH}2"}
    assert ranks([*firm, *steady]) == {"c/a-seed0": "1", "c/b-seed0": "2"}


def test_only_about_equal_sparsity_is_ranked_together() -> None:
    """A block is 10 %: 20 and 25 % are half a block apart and one group, 26 % is another."""
    rows = [case(f"m{g}", answers(range(g)), gone=g) for g in (20, 25, 26)]
    rows[1:] = [replace(r, plan=()) for r in rows[1:]]
    (board,) = build.boards([*rows, case("dense", answers(range(200)), gone=0, plan=())])

    assert board.near == pytest.approx(0.05)
    assert [(row.method, row.group) for row in board.rows] == [
        ("dense", 0),
        ("m20", 1),
        ("m25", 1),
        ("m26", 2),
    ]


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0, 0.5))
def test_groups_hold_each_row_once_and_nothing_further_apart(
    sparsities: list[float], reach: float
) -> None:
    """A partition, in order, each part no wider than the reach."""
    groups = ranking.by_sparsity(sparsities, reach)

    assert sorted(itertools.chain.from_iterable(groups)) == list(range(len(sparsities)))
    for group in groups:
        own = [sparsities[i] for i in group]
        assert max(own) - min(own) <= reach + 2e-9


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_boards_do_not_depend_on_the_order_of_records(data: st.DataObject) -> None:
    """Whatever the order of the records, each row has the same rank, and boards are equal."""
    draw = random.Random(data.draw(st.integers(0, 10**6)))
    records = [
        case(
            f"m{i}",
            answers(draw.sample(range(200), draw.randint(20, 180))),
            gone=draw.choice((20, 30)),
        )
        for i in range(5)
    ]
    shuffled = data.draw(st.permutations(records))

    assert build.boards(shuffled) == build.boards(records)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14))
def test_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    """Against the definition: dominated points have one on the front that is as good in both."""
    front = ranking.front(points)

    assert {points[i] for i in front} == {
        p for p in points if all(q == p or q[0] < p[0] or q[1] < p[1] for q in points)
    }


OTHERWISE: list[Callable[[Record], Record]] = [
    lambda r: replace(r, asked={**r.asked, "protocol": "q@1"}),
    lambda r: replace(r, asked={**r.asked, "metrics": [{**QUESTIONS, "limit": 5}]}),
    lambda r: replace(r, asked={**r.asked, "model": {"id": "m", "dtype": "float16"}}),
    lambda r: replace(r, model_hash="other weights"),
    lambda r: replace(r, provenance=replace(r.provenance, data={"d": "other bytes"})),
]


@pytest.mark.parametrize("change", OTHERWISE, ids=["protocol", "limit", "dtype", "weights", "data"])
def test_what_was_measured_otherwise_is_on_another_board(
    change: Callable[[Record], Record],
) -> None:
    """Protocol, limits, dtype, weights and data part boards; latency shapes and batches do not."""
    first = case("a", answers(range(90)))
    first = replace(first, provenance=replace(first.provenance, data={"d": "bytes"}))
    second = replace(first, case_id="c/b", asked={**first.asked, "method": {"name": "b"}})
    more = [{**QUESTIONS, "batch_size": 4}, {"name": "latency", "rounds": 3}]
    timed = replace(second, asked={**second.asked, "metrics": more})

    assert len(build.boards([first, change(second)])) == 2
    assert len(build.boards([first, timed])) == 1


def test_the_newest_record_of_a_case_is_shown() -> None:
    """Of three nights in any order the last; timings come from the newest night that has them."""
    speed = Measurement("latency/hf-eager-1x8+8/speedup-decode", 1.5, "x", "higher", (1.5,) * 9)
    gpu = replace(CPU, device="nvidia-h100")
    nights = [
        case("a", answers(range(10)), created="2026-01-01"),
        case("a", answers(range(30)), created="2026-01-03"),
        case("a", answers(range(20)), speed, created="2026-01-02", environment=gpu),
    ]
    other = replace(nights[2], plan=(DropBlocks((7, 8)),))

    (board,) = build.boards(nights)
    (elsewhere,) = build.boards([*nights[:2], other])

    assert board.rows[0].values["accuracy/t"].value == 30 / 200
    (timing,) = board.rows[0].timings
    assert (timing.device, timing.backend, timing.shape) == ("nvidia-h100", "hf-eager", "1x8+8")
    assert timing.decode is not None
    assert timing.decode.value == 1.5
    assert elsewhere.rows[0].timings == ()  # what was timed must be what was scored


def test_other_peoples_results_are_marked() -> None:
    """A checkpoint and a plan made elsewhere say so."""
    methods: list[dict[str, Any]] = [
        {"name": "external", "checkpoint": "x/y"},
        {"name": "external", "plan": "p.json"},
    ]
    records = [
        case(f"e{i}", answers(range(9)), asked={"method": method})
        for i, method in enumerate(methods)
    ]
    (board,) = build.boards(records)

    assert {row.mark for row in board.rows} == {"external checkpoint", "imported plan"}


def test_papers_numbers_stand_beside_ours() -> None:
    """Those of its own protocol alone; a search that a strange record breaks finds none."""
    row = published.Row("A", "Table 1", "p@1", "m", {"name": "sleb"}, "generation/t", 0.5)
    own = case("sleb", answers(range(90)))
    (board,) = build.boards([own], lambda _: [row, replace(row, protocol="q@1")])
    papers = published.rows(ROOT / "baselines" / "published")
    known = next(r for r in papers if r.method == {"name": "sleb"} and r.amount)
    asked = {"model": {"id": known.model}, "amount": known.amount}
    strange = case("sleb", answers(range(9)), asked={**asked, "calibration": {"nsamples": "many"}})
    assert published.matching(strange, papers) == []

    def fails(_: Record) -> list[published.Row]:
        raise PrunebenchError("no such protocol")

    (other,) = build.boards([strange], fails)

    assert board.rows[0].published == (row,)
    assert other.rows[0].published == ()


# --------------------------------------------------------------------------------- the command


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """The shipped baselines of the reference model, as a folder that may be damaged."""
    shutil.copytree(ROOT / "baselines" / "quality" / "smoke", tmp_path / "b" / "quality" / "smoke")
    return tmp_path / "b"


def test_reads_stores_baselines_folders_below_and_single_files(
    reference: Path, tmp_path: Path
) -> None:
    """Each kind of path gives the records that are in it."""
    one = case("a", answers(range(9)))
    path = Store(tmp_path / "s").save(replace(one, key="k" * 20))

    assert len(archive.read([tmp_path / "s"]).records) == 1
    assert len(archive.read([path]).records) == 1
    assert len(archive.read([tmp_path / "s" / "records" / "c"]).records) == 1
    whole = archive.read([reference]).records
    assert len(whole) == len(Baselines(reference).case_ids())
    assert len(archive.read([reference / "quality" / "smoke"]).records) == len(whole)
    assert len(archive.read([reference, reference]).records) == len(whole)


def test_damage_is_told_and_the_others_go_on(
    cli: Callable[..., tuple[int, str, str]], reference: Path, tmp_path: Path
) -> None:
    """A truncated record and an edited baseline are one line each; the board has the rest."""
    damaged = tmp_path / "s" / "records" / "c" / "a-20" / "x.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"case_id": ')
    edited = next((reference / "quality" / "smoke" / "tinyworld").glob("sleb-0.15.json"))
    edited.write_text(edited.read_text().replace('"parameters": ', '"parameters": 1'))

    code, out, err = cli("leaderboard", reference, tmp_path / "s")

    assert code == 0
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["left out", "left out"]
    assert "x.json: damaged" in err
    assert "edited by hand" in err
    assert "slicegpt" in out


def test_no_record_exits_5(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty store, and a folder that is none."""
    (tmp_path / "s" / "records").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert cli("leaderboard", "s")[0] == 5
    code, _, err = cli("leaderboard", tmp_path)
    assert (code, len(err.splitlines())) == (2, 1)


def test_json_has_what_the_table_has(
    cli: Callable[..., tuple[int, str, str]], reference: Path, tmp_path: Path
) -> None:
    """Dense first, groups by achieved sparsity, the best of each in front."""
    file = tmp_path / "boards.json"

    assert cli("leaderboard", reference, "--json", file)[0] == 0

    (board,) = json.loads(file.read_text())["boards"]
    rows, (first, _) = board["rows"], board["rank_by"]
    assert rows[0]["method"] == "dense"
    ends = [next(g for g in board["groups"] if g[0] <= r["sparsity"] <= g[1]) for r in rows]
    assert ends == sorted(ends)
    for group in board["groups"]:
        ranks = [r["places"][first]["rank"] for r, g in zip(rows, ends, strict=True) if g == group]
        assert ranks == sorted(ranks)
        assert ranks[0] == 1
    # A place names rows by where they stand: who is significantly better has fewer above it.
    for row in rows:
        for better in row["places"][first]["better"]:
            assert rows[better]["values"][first]["value"] > row["values"][first]["value"]


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits_and_shows_every_method(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """At both widths no line is cut off and every method and rank is there."""
    records = archive.read([ROOT / "baselines" / "quality" / "smoke"]).records
    (board,) = build.boards(records)

    print_board(board, InertConsole(width=width, markup=False, color_system=None))

    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    for row in board.rows:
        assert row.method[:10] in out
        assert row.dense or row.places[board.rank_by[0]].text in out


def test_record_text_is_inert_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in a method's name are shown, not sent."""
    (board,) = build.boards([case("\x1b[31mred[/b]", answers(range(9)))])

    print_board(board, InertConsole(width=160, markup=False, color_system=None))

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[31mred[/b]" in out
    assert msgspec.json.encode(plain(board))
