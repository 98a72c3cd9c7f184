"""``prunebench calibrate``: how much timings of the same model differ on this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ..api import Metric, tag
from ..case import Case
from ..errors import PrunebenchError
from ..reports.progress_bar import Display
from ..results import timing_noise
from ..system import machine
from ..system.console import print_line
from ..system.files import write_json
from ..system.machine import before_torch
from .options import Device, JsonFile, Keyword, Paths, Quiet, Settings, StoreDir, chosen_cases
from .paths import DEFAULT_STORE

if TYPE_CHECKING:
    from ..runs.worker import Worker


def calibrate(
    paths: Paths = None,
    keyword: Keyword = "",
    settings: Settings = None,
    device: Device = None,
    repetitions: Annotated[
        int, typer.Option(min=3, metavar="N", help="How often each timing is repeated.")
    ] = 20,
    json_file: JsonFile = None,
    store: StoreDir = DEFAULT_STORE,
    quiet: Quiet = False,
) -> None:
    """Measure the timing noise of this device.

    Times each dense model against itself. Gates on this device then allow at least the smallest
    difference that can be believed here, whatever a case says.
    """
    timed = _timed(chosen_cases(paths, keyword, settings))
    if not timed:
        raise PrunebenchError("no case here measures latency: there is nothing to calibrate")
    before_torch()
    from ..runs.worker import Worker

    effects: dict[str, dict[str, float]] = {}
    with Display(len(timed), quiet=quiet) as display:
        worker = Worker(device, display.step)
        for case, metrics in timed:
            found = _effects(worker, case, metrics, repetitions)
            effects.setdefault(case.asked["model"]["id"], {}).update(found)
            display.advance()
    when = datetime.now(UTC).isoformat(timespec="seconds")
    measured = timing_noise.Noise(machine.device_name(worker.device), when, repetitions, effects)
    place = timing_noise.save(store, measured)
    if json_file:
        write_json(json_file, measured)
    for model, by_name in effects.items():
        for name, effect in by_name.items():
            print_line(f"{model}: {name}: believable from {effect:.2%} on")
    print_line(f"saved in {place}")


def _timed(cases: list[Case]) -> list[tuple[Case, list[Metric]]]:
    """One case per model, with all latency metrics of that model's cases."""
    models: dict[object, tuple[Case, list[Metric]]] = {}
    for case in cases:
        _, metrics = models.setdefault(case.model, (case, []))
        metrics += [m for m in case.metrics if tag(m) == "latency" and m not in metrics]
    return [(case, metrics) for case, metrics in models.values() if metrics]


def _effects(
    worker: Worker, case: Case, metrics: list[Metric], repetitions: int
) -> dict[str, float]:
    found: dict[str, float] = {}
    for metric in metrics:
        found.update(timing_noise.effects(worker.repeated(case, metric, repetitions)))
    return found
