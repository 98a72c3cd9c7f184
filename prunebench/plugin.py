"""The pytest plugin: every case is a test item.

Loaded into every pytest run of its environment, so it imports only pytest at the top and collects
only below the folders that the ini key ``prunebench_cases`` names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .case import Case
    from .session import Result, Session

STORE = ".prunebench"
MARKERS = (
    "prunebench: a pruning case collected from a case file",
    "gpu: needs a GPU",
    "slow: takes minutes",
    "nightly: for nightly runs",
    "paper: checked against a published row",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options start with ``--prunebench-``."""
    group = parser.getgroup("prunebench", "pruning benchmark cases")
    add = group.addoption
    add("--prunebench-store", default=STORE, metavar="DIR", help="results folder")
    add("--prunebench-baselines", default=None, metavar="DIR", help="baselines folder")
    add("--prunebench-device", default=None, metavar="D", help="cpu, cuda, ...")
    add("--prunebench-limit", default=None, type=int, metavar="N", help="N questions per task")
    add("--prunebench-fresh", action="store_true", help="ignore stored results")
    add("--prunebench-fail-on", default="", metavar="EXPR", help="outcomes, conditions that fail")
    add("--prunebench-set", action="append", default=[], metavar="KEY=VALUE", help="override a key")
    add("--prunebench-accept", action="store_true", help="make the records baselines")
    add("--prunebench-because", default="", metavar="TEXT", help="why, with --prunebench-accept")
    add("--prunebench-force", action="store_true", help="accept what the guards object to")
    parser.addini("prunebench_cases", "folders whose YAML files are cases", "paths", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and refuse options that cannot go together."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    accept = config.getoption("--prunebench-accept")
    if accept and not config.getoption("--prunebench-because").strip():
        raise pytest.UsageError("--prunebench-accept needs --prunebench-because TEXT")
    if config.getoption("--prunebench-force") and not accept:
        raise pytest.UsageError("--prunebench-force goes with --prunebench-accept")
    if accept and config.getoption("--prunebench-limit"):
        raise pytest.UsageError("--prunebench-accept and --prunebench-limit exclude each other")
    limit = config.getoption("--prunebench-limit")
    if limit is not None and limit < 1:
        raise pytest.UsageError(f"--prunebench-limit {limit}: expected at least 1")
    if fail_on := config.getoption("--prunebench-fail-on"):
        from . import conditions, gating
        from .errors import PrunebenchError

        try:
            gating.parted(conditions.parse_list(fail_on))
        except PrunebenchError as error:
            raise pytest.UsageError(f"--prunebench-fail-on: {error}") from None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Case files below the folders of ``prunebench_cases``, and nothing else."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    folders = parent.config.getini("prunebench_cases")
    if not any(file_path.is_relative_to(folder) for folder in folders):
        return None
    from .casefile import is_task

    if is_task(file_path):
        return None
    return CaseFileCollector.from_parent(parent, path=file_path)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave no partial results behind where nothing is unfinished."""
    if (own := session.stash.get(_SESSION, None)) is not None:
        own.partials.tidy()


class CaseFileCollector(pytest.File):
    """One case file."""

    def collect(self) -> Iterator[pytest.Item]:
        """An item per case."""
        from . import casefile
        from .errors import PrunebenchError

        config = self.config
        try:
            shown = self.path.relative_to(config.invocation_params.dir)
        except ValueError:
            shown = self.path
        settings = config.getoption("--prunebench-set")
        limit = config.getoption("--prunebench-limit")
        try:
            cases = casefile.load([shown if shown.is_file() else self.path], settings, limit)
        except PrunebenchError as error:
            raise self.CollectError(str(error)) from None
        for case in cases:
            yield CaseItem.from_parent(self, name=case.label, case=case)


class CaseItem(pytest.Item):
    """One case: passes, or fails with its findings."""

    def __init__(self, *, case: Case, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case
        self.add_marker("prunebench")
        for mark in case.marks:
            self.add_marker(mark)

    def runtest(self) -> None:
        """Answer and judge the case."""
        session = _session(self)
        result = session.answer(self.case)
        verdict = result.verdict
        if verdict.skipped:
            pytest.skip(verdict.skipped)
        self._properties(result)
        if self.config.getoption("--prunebench-accept") and result.record:
            from . import accepting

            accepting.accept(
                [result.record],
                [self.case],
                self.config.getoption("--prunebench-because"),
                session.store,
                session.baselines,
                force=self.config.getoption("--prunebench-force"),
                flag="--prunebench-force",
            )
        elif not verdict.ok:
            raise CaseFailedError(result)

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None
    ) -> str | Any:
        """The findings as plain lines; a traceback only for our own bugs."""
        from .errors import PrunebenchError

        if isinstance(excinfo.value, CaseFailedError | PrunebenchError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """The place in the case file."""
        return self.path, self.case.line - 1, self.case.id

    def _properties(self, result: Result) -> None:
        """Every number, for reports such as ``--junitxml``."""
        from .reports import items, junit

        for item in items.judged([result]).items:
            self.user_properties.extend(junit.properties(item))


class CaseFailedError(Exception):
    """A case whose findings fail it."""

    def __init__(self, result: Result) -> None:
        from .report import lines

        again = f"reproduce: {result.reproduce}"
        super().__init__("\n".join([*lines(result.verdict), again]))


def _share_cores() -> None:
    """Under xdist, give each worker its share of the threads: together they have one machine."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // workers))


_SESSION = pytest.StashKey["Session"]()


def _session(item: CaseItem) -> Session:
    """One session per process, so that models and searches are shared between items."""
    stash = item.session.stash
    if _SESSION not in stash:
        from . import gating
        from .baseline import OWN, Baselines
        from .session import Session, command_options
        from .store import Store

        option = item.config.getoption
        store = option("--prunebench-store")
        folder = option("--prunebench-baselines")
        cases = [i.case for i in item.session.items if isinstance(i, CaseItem)]
        families = [name for case in cases for name in case.families]
        fail_on = option("--prunebench-fail-on")
        outcomes, conditions = gating.given(fail_on, "--prunebench-fail-on", families)
        stash[_SESSION] = Session(
            cases,
            Store(Path(store)),
            Baselines(Path(folder) if folder else OWN),
            option("--prunebench-device"),
            fresh=option("--prunebench-fresh"),
            fail_on=outcomes,
            conditions=conditions,
            # Each item is judged on its own, perhaps in another process: all share one level.
            family=sum(len(case.metrics) for case in cases),
            options=command_options(
                {
                    "--device": option("--prunebench-device"),
                    "--limit": option("--prunebench-limit"),
                    "--fail-on": fail_on,
                    "--baselines": folder,
                    "--store": None if store == STORE else store,
                }
            ),
        )
        _share_cores()
    return stash[_SESSION]
