"""``prunebench doctor``: what on this machine would spoil a run, and what to do about it."""

from __future__ import annotations

from typing import Annotated

import typer

from ..runs import doctor as checks
from ..runs.result import CRASHED, OK
from ..system.console import print_line
from ..system.machine import before_torch, default_device
from .options import AsJson, BaselineDir, Device, StoreDir, print_json, read_baselines
from .paths import DEFAULT_STORE


def doctor(
    device: Device = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="M", help="Report how its tokenizer adds a BOS.")
    ] = None,
    as_json: AsJson = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Check this machine for what spoils a run; a problem exits 3."""
    before_torch()
    place = device or default_device()
    if device is not None:
        from ..models.loading import available

        available(device)  # a missing one is a mistake in the command
    root = read_baselines(baselines).root
    found = []
    for finding in checks.examine(store, root, place, tuple(model or ())):
        found.append(finding)
        if not as_json:
            do = f"; {finding.what_to_do}" if finding.what_to_do else ""
            print_line(f"{finding.state:8} {finding.check}: {finding.found}{do}")
    if as_json:
        print_json(found)
    raise typer.Exit(CRASHED if any(f.state == "problem" for f in found) else OK)
