"""The pytest plugin: every case is a test item.

It is loaded into every pytest run of its environment, so it imports only pytest at the top and
collects only below the folders that the ini key ``prunebench_cases`` names.
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
    from .runs.result import Result
    from .runs.session import Session

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


def _option(config: pytest.Config, name: str) -> Any:
    return config.getoption(f"--prunebench-{name}")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and refuse options that exclude each other."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    accept, limit = _option(config, "accept"), _option(config, "limit")
    if accept and not _option(config, "because").strip():
        raise pytest.UsageError("--prunebench-accept needs --prunebench-because TEXT")
    if _option(config, "force") and not accept:
        raise pytest.UsageError("--prunebench-force goes with --prunebench-accept")
    if accept and limit:
        raise pytest.UsageError("--prunebench-accept and --prunebench-limit exclude each other")
    if limit is not None and limit < 1:
        raise pytest.UsageError(f"--prunebench-limit {limit}: expected at least 1")
    if fail_on := _option(config, "fail-on"):
        from .errors import PrunebenchError
        from .verdicts import conditions
        from .verdicts import fail_on as fail_rules

        try:
            fail_rules.parted(conditions.parse_list(fail_on))
        except PrunebenchError as error:
            raise pytest.UsageError(f"--prunebench-fail-on: {error}") from None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect case files below the folders of ``prunebench_cases``, and nothing else."""
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    folders = parent.config.getini("prunebench_cases")
    if not any(file_path.is_relative_to(folder) for folder in folders):
        return None
    from .cases.loader import is_task

    return None if is_task(file_path) else CaseFile.from_parent(parent, path=file_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a skipped case at its line of the case file, not at a line of this module."""
    del call
    report = yield
    if isinstance(item, CaseItem) and isinstance(report.longrepr, tuple):
        report.longrepr = (str(item.path), item.case.line, report.longrepr[2])
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the journals of finished cases."""
    if (own := session.stash.get(_SESSION, None)) is not None:
        own.partials.tidy()


class CaseFile(pytest.File):
    """A case file."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield an item per case."""
        from .cases import loader
        from .errors import PrunebenchError

        path = _relative(self)
        settings, limit = _option(self.config, "set"), _option(self.config, "limit")
        try:
            cases = loader.load([path if path.is_file() else self.path], settings, limit)
        except PrunebenchError as error:
            raise self.CollectError(str(error)) from None
        self._check_ids(cases)
        for case in cases:
            try:
                yield CaseItem.from_parent(self, name=case.label, case=case)
            except pytest.fail.Exception as error:  # an unknown marker under --strict-markers
                raise self.CollectError(f"{case.file}:{case.line}:1: {error}") from None

    def _check_ids(self, cases: list[Case]) -> None:
        """Refuse ids of another file: their records and baselines would be the same files."""
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
    """A case: passes, or fails with its findings."""

    def __init__(self, *, case: Case, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case
        self.add_marker("prunebench")
        for mark in case.marks:
            self.add_marker(mark)

    def runtest(self) -> None:
        """Measure and judge the case."""
        from .errors import PrunebenchError
        from .reports.formats import items, junit
        from .reports.sentences import lines

        session = _session(self)
        result = session.answer(self.case)
        verdict = result.verdict
        if verdict.skipped:
            pytest.skip(verdict.skipped)
        for item in items.judged([result]).items:  # every number, for --junitxml
            self.user_properties.extend(junit.properties(item))
        self._add_benchmarks(result)
        if _option(self.config, "accept") and result.record:
            from .results.baselines import accept as accepting

            accepting.accept(
                [result.record],
                [self.case],
                _option(self.config, "because"),
                session.store,
                session.baselines,
                force=_option(self.config, "force"),
                flag="--prunebench-force",
            )
        elif not verdict.ok:
            raise PrunebenchError("\n".join([*lines(verdict), f"reproduce: {self._command()}"]))

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None
    ) -> str | Any:
        """The findings as plain lines; a traceback only for bugs."""
        from .errors import PrunebenchError

        if isinstance(excinfo.value, PrunebenchError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """The line of the case file."""
        return self.path, self.case.line - 1, self.case.id

    def _command(self) -> str:
        """The pytest command that runs this item alone; only pytest reads ``conftest.py``."""
        name = f"{_relative(self)}::{self.name}"
        return shlex.join(["pytest", name, *_repeated(self.config)])

    def _add_benchmarks(self, result: Result) -> None:
        """Give its timings to pytest-benchmark, if that writes a file or compares."""
        session = getattr(self.config, "_benchmarksession", None)
        if session is None or session.disabled or session.skip or result.record is None:
            return
        if session.json or session.save or session.autosave or session.compare:
            from .reports.formats import pytest_benchmark

            session.benchmarks.extend(pytest_benchmark.entries(result.record, self.nodeid))


def _relative(node: CaseFile | CaseItem) -> Path:
    """The node's file, relative to where pytest was called if it is below that."""
    here = node.config.invocation_params.dir
    return node.path.relative_to(here) if node.path.is_relative_to(here) else node.path


def _repeated(config: pytest.Config) -> Iterator[str]:
    """The options of this run that change what a case measures or how it is judged."""
    if config.option.inifilename:
        yield f"--config-file={config.option.inifilename}"
    if config.option.rootdir:
        yield f"--rootdir={config.option.rootdir}"
    for setting in config.option.override_ini or ():
        # pytest adds settings of its own; only those that were typed are repeated.
        if any(str(word).endswith(setting) for word in config.invocation_params.args):
            yield f"--override-ini={setting}"
    for name in ("store", "baselines", "device", "limit", "fail-on"):
        value = _option(config, name)
        if value not in (None, "", STORE):
            yield f"--prunebench-{name}={value}"
    for setting in _option(config, "set"):
        yield f"--prunebench-set={setting}"


_SESSION = pytest.StashKey["Session"]()
#: Where each case id was found first: its file, and ``file:line``.
_KNOWN = pytest.StashKey[dict[str, tuple[Path, str]]]()


def _session(item: CaseItem) -> Session:
    """The session of this process, in which items share models and searches."""
    stash = item.session.stash
    if _SESSION not in stash:
        cases = [i.case for i in item.session.items if isinstance(i, CaseItem)]
        stash[_SESSION] = _new_session(item.config, cases)
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        if workers > 1:  # each takes its share of the threads
            import torch

            torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    return stash[_SESSION]


def _new_session(config: pytest.Config, cases: list[Case]) -> Session:
    from .errors import PrunebenchWarning
    from .results.baselines import accept as accepting
    from .results.baselines.files import OWN, Baselines
    from .results.store import Store
    from .runs.session import Session
    from .verdicts import fail_on as fail_rules

    families = [name for case in cases for name in case.families]
    outcomes, conditions = fail_rules.given(
        _option(config, "fail-on"), "--prunebench-fail-on", families
    )
    roots = Baselines(Path(_option(config, "baselines") or OWN))
    if _option(config, "accept"):
        accepting.end(roots)
    if roots.cut_off:
        warnings.warn(roots.cut_off, PrunebenchWarning, stacklevel=1)
    return Session(
        cases,
        Store(Path(_option(config, "store"))),
        roots,
        _option(config, "device"),
        fresh=_option(config, "fresh"),
        fail_on=outcomes,
        conditions=conditions,
        # Each item is judged on its own, perhaps in another process: all share one level.
        family=sum(len(case.metrics) for case in cases),
    )
