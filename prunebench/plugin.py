"""The pytest plugin: every case is a test item.

Loaded into every pytest run of its environment, so it imports only pytest at the top and collects
only below the folders that the ini key ``prunebench_cases`` names.
"""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .case import Case
    from .runs.session import Result, Session

MARKERS = (
    "prunebench: a pruning case collected from a case file",
    "gpu: needs a GPU",
    "slow: takes minutes",
    "nightly: for nightly runs",
    "paper: checked against a published row",
)


STORE = ".prunebench"


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
        from .errors import PrunebenchError
        from .verdicts import conditions
        from .verdicts import fail_on as gating

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
    from .cases.loader import is_task

    if is_task(file_path):
        return None
    return CaseFileCollector.from_parent(parent, path=file_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped case is told with its place in the case file, not with ours."""
    del call
    report = yield
    if isinstance(item, CaseItem) and isinstance(report.longrepr, tuple):
        report.longrepr = (str(item.path), item.case.line, report.longrepr[2])
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave no partial results behind where nothing is unfinished."""
    if (own := session.stash.get(_SESSION, None)) is not None:
        own.partials.tidy()


class CaseFileCollector(pytest.File):
    """One case file."""

    def collect(self) -> Iterator[pytest.Item]:
        """An item per case."""
        from .cases import loader
        from .errors import PrunebenchError

        config = self.config
        try:
            shown = self.path.relative_to(config.invocation_params.dir)
        except ValueError:
            shown = self.path
        settings = config.getoption("--prunebench-set")
        limit = config.getoption("--prunebench-limit")
        try:
            cases = loader.load([shown if shown.is_file() else self.path], settings, limit)
        except PrunebenchError as error:
            raise self.CollectError(str(error)) from None
        self._check_ids(cases)
        for case in cases:
            try:
                yield CaseItem.from_parent(self, name=case.label, case=case)
            except pytest.fail.Exception as error:  # a marker that is none, where pytest is strict
                raise self.CollectError(f"{case.file}:{case.line}:1: {error}") from None

    def _check_ids(self, cases: list[Case]) -> None:
        """Refuse ids that another file has, whose records and baselines would be the same files."""
        known = self.session.stash.setdefault(_KNOWN, {})
        problems = []
        for case in cases:
            path, place = known.setdefault(case.id, (self.path, f"{case.file}:{case.line}"))
            if path != self.path:
                here = f"{case.file}:{case.line}:1"
                problems.append(f"{here}: duplicate case id {case.id!r}, also {place}")
        if problems:
            raise self.CollectError("\n".join(problems))


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
        from .reports.sentences import lines

        session = _session(self)
        result = session.answer(self.case)
        verdict = result.verdict
        if verdict.skipped:
            pytest.skip(verdict.skipped)
        self._properties(result)
        self._timings(result)
        if self.config.getoption("--prunebench-accept") and result.record:
            from .results.baselines import accept as accepting

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
            raise CaseFailedError([*lines(verdict), f"reproduce: {self._again()}"])

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

    def _again(self) -> str:
        """The command that runs this item alone.

        It is pytest's, since a method of the project's ``conftest.py`` is known nowhere else.
        """
        here = self.config.invocation_params.dir
        path = self.path.relative_to(here) if self.path.is_relative_to(here) else self.path
        return shlex.join(["pytest", f"{path}::{self.name}", *_given(self.config)])

    def _timings(self, result: Result) -> None:
        """The rounds of its timings, where pytest-benchmark is asked for a file or to compare."""
        session = getattr(self.config, "_benchmarksession", None)
        if session is None or session.disabled or session.skip or result.record is None:
            return
        if session.json or session.save or session.autosave or session.compare:
            from .reports.formats import pytest_benchmark

            session.benchmarks.extend(pytest_benchmark.entries(result.record, self.nodeid))

    def _properties(self, result: Result) -> None:
        """Every number, for reports such as ``--junitxml``."""
        from .reports.formats import items, junit

        for item in items.judged([result]).items:
            self.user_properties.extend(junit.properties(item))


class CaseFailedError(Exception):
    """A case whose findings fail it.

    Args:
        told: the findings, a line each, and how to see them again.
    """

    def __init__(self, told: list[str]) -> None:
        super().__init__("\n".join(told))


def _share_cores() -> None:
    """Under xdist, give each worker its share of the threads: together they have one machine."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def _given(config: pytest.Config) -> Iterator[str]:
    """The options of this run that bear on what a case measures and how it is judged."""
    if config.option.inifilename:
        yield f"--config-file={config.option.inifilename}"
    if config.option.rootdir:
        yield f"--rootdir={config.option.rootdir}"
    for setting in config.option.override_ini or ():
        # pytest puts settings of its own there; one that was typed is typed again.
        if any(str(given).endswith(setting) for given in config.invocation_params.args):
            yield f"--override-ini={setting}"
    for name in ("store", "baselines", "device", "limit", "fail-on"):
        value = config.getoption(f"--prunebench-{name}")
        if value not in (None, "", STORE):
            yield f"--prunebench-{name}={value}"
    for setting in config.getoption("--prunebench-set"):
        yield f"--prunebench-set={setting}"


_SESSION = pytest.StashKey["Session"]()
#: Where each case id was first found: its file, and the place in words.
_KNOWN = pytest.StashKey[dict[str, tuple[Path, str]]]()


def _session(item: CaseItem) -> Session:
    """One session per process, so that models and searches are shared between items."""
    stash = item.session.stash
    if _SESSION not in stash:
        from .errors import PrunebenchWarning
        from .results.baselines import accept as accepting
        from .results.baselines.files import OWN, Baselines
        from .results.store import Store
        from .runs.session import Session
        from .verdicts import fail_on as gating

        option = item.config.getoption
        folder = option("--prunebench-baselines")
        cases = [i.case for i in item.session.items if isinstance(i, CaseItem)]
        families = [name for case in cases for name in case.families]
        fail_on = option("--prunebench-fail-on")
        outcomes, conditions = gating.given(fail_on, "--prunebench-fail-on", families)
        roots = Baselines(Path(folder) if folder else OWN)
        if option("--prunebench-accept"):
            accepting.end(roots)
        if roots.cut_off:
            warnings.warn(roots.cut_off, PrunebenchWarning, stacklevel=1)
        stash[_SESSION] = Session(
            cases,
            Store(Path(option("--prunebench-store"))),
            roots,
            option("--prunebench-device"),
            fresh=option("--prunebench-fresh"),
            fail_on=outcomes,
            conditions=conditions,
            # Each item is judged on its own, perhaps in another process: all share one level.
            family=sum(len(case.metrics) for case in cases),
        )
        _share_cores()
    return stash[_SESSION]
