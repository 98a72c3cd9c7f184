"""Makes a cell of a case file's matrix a case: checked, named, once per calibration seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import msgspec
from msgspec.structs import replace

from .. import registry
from ..api import Method, Metric, Target, tag
from ..case import AMOUNTS, Case, axis_label, method_label, question
from ..data.yaml_source import Source, Where
from ..errors import CaseError, PrunebenchError
from ..record import Tolerance
from ..specs import CalibrationSpec, ModelSpec, Needs
from ..system.files import MAX_PART, is_name
from ..verdicts import fail_on
from ..verdicts.conditions import Condition, unfit
from ..verdicts.verdict import FAILING
from .keys import Data, check_keys, check_names
from .overlay import Setting, resolved, with_setting

#: Keys that are in the id otherwise, or are no part of the question.
_UNLABELLED = ("method", *AMOUNTS, "needs", "marks", "tolerance", "fail_on", "published", "alpha")


class Cell(NamedTuple):
    """One case to be: its place in the file, its data, and what other axes add to its id."""

    where: Where
    data: Data
    label: str


def axes_label(axes: Data) -> str:
    """What these keys of the matrix add to the id of a case, next to its method and amount."""
    return "-".join(axis_label(k, v) for k, v in axes.items() if k not in _UNLABELLED)


class Maker:
    """Makes the cells of one file into cases.

    Args:
        source: the file.
        prefix: the part of their ids that the file gives.
        limit: at most so many questions per task.
    """

    def __init__(self, source: Source, prefix: str, limit: int | None) -> None:
        self._source = source
        self._prefix = prefix
        self._limit = limit

    def cases(self, cell: Cell, settings: Sequence[Setting]) -> Iterator[Case]:
        """A case for each calibration seed; just one where nothing is calibrated."""
        calibration = _set(cell.data, settings).get("calibration")
        seeds = calibration.get("seed") if isinstance(calibration, dict) else None
        if not isinstance(seeds, list):
            yield self.case(cell, settings)
            return
        first = self.case(cell, settings, seeds[0])
        if not first.method.calibrated or len(seeds) == 1:
            yield first
            return
        yield replace(first, seed_of=first.id)
        for seed in dict.fromkeys(seeds[1:]):
            case = self.case(cell, settings, seed)
            yield replace(case, id=f"{case.id}-seed{seed}", seed_of=first.id)

    def case(self, cell: Cell, settings: Sequence[Setting], seed: int | None = None) -> Case:
        """The case of *cell* with *settings* laid over it, calibrated with *seed* if it is given.

        Raises:
            CaseError: if it is not whole, or its settings broke it.
        """
        data = _set(cell.data, settings)
        self._check(cell, data, settings)
        if seed is not None:
            data = with_setting(data, "calibration.seed", seed)
        raw: Data = json.loads(json.dumps(data))
        amounts = [k for k in AMOUNTS if raw.get(k) is not None]
        outcomes, conditions = fail_on.parted(raw.get("fail_on") or FAILING)
        paths = cast("Data", resolved(raw, self._source.path.parent))
        try:
            method = _method(raw["method"])
            own = _method(paths["method"])
            target = Target(**{k: raw[k] for k in amounts})
            metrics = self._metrics(raw["metrics"])
            alike = paths["metrics"] == raw["metrics"]
            asked = question(
                raw.get("protocol"),
                msgspec.convert(raw["model"], ModelSpec),
                method,
                target,
                msgspec.convert(raw.get("calibration") or {}, CalibrationSpec),
                metrics,
            )
            name = "-".join(p for p in (method_label(method, target), cell.label) if p)
            return Case(
                id=self._id(f"{name}{''.join(s.suffix for s in settings)}"),
                file=self._source.path,
                line=int(self._source.at(cell.where).rsplit(":", 2)[1]),
                asked=asked,
                model=msgspec.convert(paths["model"], ModelSpec),
                method=own,
                target=target,
                calibration=msgspec.convert(paths.get("calibration") or {}, CalibrationSpec),
                metrics=metrics if alike else self._metrics(paths["metrics"]),
                tolerance=msgspec.convert(raw.get("tolerance") or {}, dict[str, Tolerance]),
                fail_on=outcomes,
                conditions=conditions,
                published=msgspec.convert(raw.get("published"), Tolerance | None),
                marks=tuple(raw.get("marks") or ()),
                needs=msgspec.convert(raw.get("needs") or {}, Needs),
                settings=tuple(setting.text for setting in settings),
                alpha=raw.get("alpha"),
            )
        except (msgspec.ValidationError, PrunebenchError) as error:
            raise CaseError([f"{self._source.at(cell.where)}: {error}"]) from None

    def _id(self, label: str) -> str:
        """The id of a case: a path of the results and baselines folders."""
        case_id = f"{self._prefix}/{label}"
        if not is_name(case_id):
            longest = max(case_id.split("/"), key=len)
            size = f"{len(longest)} letters, at most {MAX_PART}"
            raise PrunebenchError(f"a part of the case id has {size}: {longest[:60]}...")
        return case_id

    def _check(self, cell: Cell, data: Data, settings: Sequence[Setting]) -> None:
        """Refuse a case that is not whole, or that its settings broke."""
        lines = []
        folder = self._source.path.parent
        found = [*check_keys(data, ()), *check_names(data, folder)] if settings else []
        for where, message in found:
            key = ".".join(map(str, where))
            given = [s for s in settings if key.startswith(s.key) or s.key.startswith(key)]
            lines.append(f"--set {given[0].text if given else key}: {message}")
        place = self._source.at(cell.where)
        for key in ("model", "method", "metrics"):
            if data.get(key) is None or (key == "model" and "id" not in data[key]):
                lines.append(f"{place}: missing key {key!r}")
        if not lines:
            try:
                amounts = {k: data[k] for k in AMOUNTS if data.get(k) is not None}
                _method(data["method"]).amount(amounts)
            except PrunebenchError as error:
                lines.append(f"{place}: {error}")
            lines += self._unfit(data, settings, place)
        if lines:
            raise CaseError(lines)

    def _unfit(self, data: Data, settings: Sequence[Setting], place: str) -> Iterator[str]:
        """A line for each condition about a metric that the case does not have."""
        items = [(i, fail_on.read(item)) for i, item in enumerate(data.get("fail_on") or ())]
        conditions = [(i, item) for i, item in items if isinstance(item, Condition)]
        families = [metric["name"] for metric in data["metrics"]]
        given = next((f"--set {s.text}" for s in settings if s.key == "fail_on"), "")
        for i, condition in conditions:
            if message := unfit(condition, families):
                # Another file's list has no place in this one.
                own = data["fail_on"] == self._source.data.get("fail_on")
                where = self._source.at(("fail_on", i)) if own else place
                yield f"{given or where}: {message}"

    def _metrics(self, items: list[Data]) -> tuple[Metric, ...]:
        metrics = tuple(_metric(item) for item in items)
        seen = set()
        for i, metric in enumerate(metrics):
            if (named := (tag(metric), metric.names())) in seen:
                raise PrunebenchError(
                    f"metrics[{i}]: another {tag(metric)!r} has measurements of the same names"
                )
            seen.add(named)
        return metrics if self._limit is None else tuple(m.limited(self._limit) for m in metrics)


def _set(data: Data, settings: Sequence[Setting]) -> Data:
    for setting in settings:
        data = with_setting(data, setting.key, setting.value)
    return data


def _method(data: Data) -> Method:
    return msgspec.convert(data, registry.method(data["name"]))


def _metric(data: Data) -> Metric:
    return msgspec.convert(data, registry.metric(data["name"]))
