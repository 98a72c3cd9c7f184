"""Timings as benchmarks of pytest-benchmark, for its table, its JSON and its ``compare``."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from ...record import Record

#: Units of time, in seconds.
SECONDS = {"ms": 1e-3, "s": 1.0}


def entries(record: Record, node: str) -> Iterator[Any]:
    """A benchmark per timing of *record* whose rounds were stored, all rounds in seconds.

    *node* is pytest's name of the item. The objects are as pytest-benchmark's own session holds
    them; a group for each kind of timing.
    """
    from pytest_benchmark.stats import Metadata

    for measurement in record.measurements:
        scale = SECONDS.get(measurement.unit)
        if scale is None or not measurement.samples:
            continue
        benchmark = SimpleNamespace(
            name=f"{node.rpartition('::')[2]}[{measurement.metric}]",
            fullname=f"{node}[{measurement.metric}]",
            group=measurement.metric,
            param=None,
            params=None,
            extra_info={
                "case": record.case_id,
                "device": record.environment.device,
                "sparsity": record.sparsity,
                "created": record.created,
            },
            cprofile_stats=None,
            has_error=False,
        )
        one: Any = Metadata(benchmark, iterations=1, options={})  # type: ignore[no-untyped-call]
        for sample in measurement.samples:
            one.stats.update(sample * scale)
        yield one
