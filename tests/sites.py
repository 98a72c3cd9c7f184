"""Records for tests of the site: many, made of the shipped ones, and one that means harm."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from prunebench import Measurement, Record
from prunebench.leaderboard import build, site
from prunebench.results import archive

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "baselines" / "quality" / "smoke"
#: What a page must only show: markup, quotes, an end of a script, marks that turn the direction.
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202etxt\x1b[31m"


def shipped() -> list[Record]:
    """The smoke cases' baselines, with made-up speedups and an older night of each."""
    found = []
    for record in archive.read([SMOKE]).records:
        x = 1 + record.sparsity
        speeds = tuple(_speedup(part, x) for part in ("prefill", "decode", "end-to-end"))
        new = replace(record, measurements=(*record.measurements, *speeds))
        found += [new, replace(new, created="2026-11-20T00:00:00+00:00", key="older")]
    return found


def _speedup(part: str, x: float) -> Measurement:
    rounds = tuple(x + i / 1000 for i in range(9))
    name = f"latency/hf-eager-1x64+8/speedup-{part}"
    return Measurement(name, x, "x", "higher", rounds)


def many(count: int) -> list[Record]:
    """So many cases, all different: the shipped ones of other models, with other answers."""
    draw = random.Random(0)
    made: list[Record] = []
    while len(made) < count:
        number = len(made) // 17
        for record in shipped()[::2][: count - len(made)]:
            model = {"id": f"lab/model-{number}", "dtype": "float32"}
            made.append(
                replace(
                    record,
                    case_id=f"many/m{number}/{record.case_id.rsplit('/', 1)[-1]}",
                    asked={**record.asked, "model": model},
                    measurements=tuple(_shaken(m, draw) for m in record.measurements),
                )
            )
    return made


def crowd(count: int) -> list[Record]:
    """So many rows of one board, a third of them in each of three groups: the shipped ones under
    other options, each with answers and windows of its own.
    """
    draw = random.Random(0)
    pruned = [record for record in shipped()[::2] if record.plan]
    made = []
    for i in range(count):
        record, like = pruned[i % len(pruned)], pruned[3 * (i % 3)]
        method = {**record.asked["method"], "variant": i}
        worse = draw.uniform(0, 0.1)
        made.append(
            replace(
                record,
                case_id=f"crowd/{i}",
                asked={**record.asked, "method": method},
                parameters=like.parameters,
                measurements=tuple(_shaken(m, draw, worse) for m in record.measurements),
            )
        )
    return made


def _shaken(m: Measurement, draw: random.Random, worse: float | None = None) -> Measurement:
    """Some right answers wrong; a task and the mean over tasks need not agree here."""
    if m.unit == "ppl" and worse is not None:
        samples = tuple(s + worse * draw.random() for s in m.samples)
        return replace(m, samples=samples, value=math.exp(sum(samples) / len(samples)))
    if m.unit != "acc":
        return m
    samples = tuple(
        s if draw.random() > (0.02 if worse is None else worse) else 0.0 for s in m.samples
    )
    return replace(m, samples=samples, value=sum(samples) / len(samples))


def hostile() -> Record:
    """A record of which every text wants to be more than text."""
    first = shipped()[0]
    asked: dict[str, Any] = {
        **first.asked,
        "protocol": EVIL,
        "model": {"id": EVIL, "revision": EVIL},
        "method": {"name": EVIL, EVIL: EVIL},
    }
    return replace(
        first,
        case_id="c/evil",
        asked=asked,
        measurements=(
            *(replace(m, note=EVIL) for m in first.measurements),
            Measurement(f"accuracy/{EVIL}", 0.5, EVIL, "higher"),
        ),
        environment=replace(first.environment, packages={EVIL: EVIL}, commit=EVIL),
        provenance=replace(first.provenance, command=EVIL, data={EVIL: EVIL}, cpu=EVIL),
        cost={EVIL: 1.0},
    )


def built(records: list[Record], title: str = "Boards") -> dict[str, bytes]:
    """The files of the site of *records*."""
    return site.build(build.boards(records), records, title)
