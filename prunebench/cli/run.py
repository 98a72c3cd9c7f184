"""``prunebench run``: measure cases, compare them with their baselines, and exit accordingly."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any

import typer
from msgspec import Struct

from ..case import Case
from ..errors import PrunebenchError
from ..reports import run_table, sentences
from ..reports.progress_bar import Display
from ..reports.run_files import RunFiles
from ..results.baselines import accept as accepting
from ..results.baselines import review
from ..results.baselines.files import OWN, Baselines
from ..results.resume import folders
from ..results.store import Store
from ..runs import dry_run as estimates
from ..runs import execution
from ..runs.result import (
    CRASHED,
    INTERRUPTED,
    OK,
    USAGE,
    Result,
    command_options,
    exit_code,
    failures,
)
from ..runs.session import Session
from ..system import signals
from ..system.console import console, print_line, print_note
from ..system.files import write_json
from ..system.machine import has_gpu_files
from ..verdicts import fail_on as fail_rules
from ..verdicts.conditions import Condition
from ..verdicts.outcomes import Outcome
from . import options
from .accept import print_accepted
from .paths import DEFAULT_STORE


class Options(Struct, frozen=True):
    """The options of ``prunebench run``."""

    paths: options.Paths = None
    keyword: options.Keyword = ""
    settings: options.Settings = None
    limit: options.Limit = None
    device: options.Device = None
    fresh: Annotated[
        bool,
        options.measure_option("--fresh", help="Ignore stored results, unfinished ones too."),
    ] = False
    dry_run: Annotated[
        bool,
        options.measure_option(
            "--dry-run", help="Only print what would run, from where, and how long."
        ),
    ] = False
    store: options.StoreDir = DEFAULT_STORE
    strict: options.Strict = False
    fail_on: options.FailOn = ""
    alpha: options.Alpha = None
    baselines: options.BaselineDir = None
    accept: Annotated[
        bool, options.baseline_option("--accept", help="Make the records baselines.")
    ] = False
    because: options.Because = ""
    force: options.Force = False
    json_file: options.JsonFile = None
    junit_file: options.JunitFile = None
    markdown_file: options.MarkdownFile = None
    on_github: options.OnGithub = None
    workers: options.WorkerCount = ""
    per_gpu: options.PerGpu = 1
    executor: options.ExecutorName = ""
    slurm: options.SlurmOptions = None
    detach: options.Detach = False
    quiet: options.Quiet = False

    def check(self) -> None:
        """Refuse options that exclude each other, before anything is read.

        Raises:
            PrunebenchError: with a line that says which and why.
        """
        if self.accept and not self.because.strip():
            raise PrunebenchError("--accept needs --because TEXT: a baseline changes for a reason")
        if self.because and not self.accept:
            raise PrunebenchError(
                "--because goes with --accept: it is the reason of a new baseline"
            )
        if self.accept and self.detach:
            raise PrunebenchError(
                "--accept and --detach exclude each other: nothing is measured yet"
            )
        if self.force and not self.accept:
            raise PrunebenchError("--force goes with --accept: it overrides what guards a baseline")
        if self.accept and self.limit:
            raise PrunebenchError("--accept and --limit exclude each other: that run is partial")

    @property
    def execution(self) -> execution.ExecutionOptions:
        """Which processes measure."""
        slurm = tuple(self.slurm or ())
        return execution.ExecutionOptions(
            self.workers, self.per_gpu, self.executor, slurm, self.detach
        )

    @property
    def repeated(self) -> str:
        """The options that the command which reproduces one case has to repeat."""
        return command_options(
            {
                "--device": self.device,
                "--limit": self.limit,
                "--fail-on": self.fail_on,
                "--alpha": self.alpha,
                "--strict": self.strict,
                "--baselines": self.baselines,
                "--store": None if self.store == DEFAULT_STORE else self.store,
            }
        )


def run(**given: Any) -> None:
    """Run cases and compare them with their baselines. A regression exits 1."""
    asked = Options(**given)
    asked.check()
    cases = options.chosen_cases(asked.paths, asked.keyword, asked.settings, asked.limit)
    families = [name for case in cases for name in case.families]
    outcomes, conditions = fail_rules.given(asked.fail_on, "--fail-on", families)
    if asked.dry_run:
        _print_estimates(asked, cases)
        return
    asked.execution.check()
    raise typer.Exit(_Run(asked, cases, outcomes, conditions).code())


run.__signature__ = inspect.signature(Options)  # type: ignore[attr-defined]  # read by Typer


class _Run:
    """One run: measures its cases, writes the reports, accepts if asked to.

    *fail_on* and *conditions*, unless None, are used instead of those that each case names.
    """

    def __init__(
        self,
        asked: Options,
        cases: list[Case],
        fail_on: tuple[Outcome, ...] | None,
        conditions: tuple[Condition, ...] | None,
    ) -> None:
        self.asked, self.cases = asked, cases
        self.fail_on, self.conditions = fail_on, conditions
        self.store = Store(asked.store)
        self.target = Baselines(asked.baselines or OWN)  # where accepted records go
        self.results: list[Result] = []
        self.stopped: KeyboardInterrupt | None = None
        self.files = RunFiles(
            asked.json_file,
            asked.junit_file,
            asked.markdown_file,
            asked.on_github,
            strict=asked.strict,
        )
        folder = asked.baselines
        if folder is not None and not folder.exists() and not asked.accept:
            print_note(f"--baselines {folder}: no such folder, so every case is new")
        if asked.accept:
            accepting.end(self.target)
        self.baselines = options.read_baselines(folder)

    @property
    def left(self) -> int:
        """How many cases have no result."""
        return len(self.cases) - len(self.results)

    def code(self) -> int:
        """Run, report, and return the exit code."""
        asked = self.asked
        with _stoppable(self._save_and_report, asked.execution.patience):
            with Display(len(self.cases), quiet=asked.quiet) as display:
                self._measure(display)
            if self.results:  # a run that was stopped or detached may have none
                run_table.table(self.results, console())
            self.files.annotate(self.results, self.left)
            whole = not (asked.keyword or asked.settings)
            if whole and (hint := review.hint(self.baselines, self.cases)):
                print_note(hint)
            if self.stopped is not None:
                left = f" with {self.left} of {len(self.cases)} cases left"
                return _stop_code(self.stopped, left)
            if asked.accept:
                return self._accept()
            verdicts = [result.verdict for result in self.results]
            return self.files.code(exit_code(verdicts, strict=asked.strict))

    def _measure(self, display: Display) -> None:
        """Answer the cases until done or interrupted; write the files of the run in any case."""
        asked, how = self.asked, self.asked.execution
        session = Session(
            self.cases,
            self.store,
            self.baselines,
            how.device_here(asked.device),
            fresh=asked.fresh,
            fail_on=self.fail_on,
            conditions=self.conditions,
            alpha=asked.alpha,
            options=asked.repeated,
            progress=display.step,
        )
        try:
            if how.here or asked.device == "cpu" or not has_gpu_files():
                for case, progress in session.unfinished():
                    print_note(f"resuming {case.label} {progress}")
            answers = execution.answers(
                session, asked.device, how, display.note, display.worker_step
            )
            with closing(answers):
                for result in answers:
                    self.results.append(result)
                    display.done(result)
            session.partials.tidy()
        except KeyboardInterrupt as error:
            self.stopped = error
            self.results += session.cut_off(self.results)
        finally:
            self.results = session.settled(self.results)
            self._write()

    def _write(self) -> None:
        self.files.write(self.results, self.left)

    def _save_and_report(self) -> None:
        """What a second thread does where the main one cannot be stopped in time."""
        folders.last_words()
        self._write()  # afterwards: a pipe may have a slow reader
        print_note("stopped; run the same command to resume")

    def _accept(self) -> int:
        crashed = any(result.verdict.error for result in self.results)
        try:
            accepted = accepting.accept(
                [result.record for result in self.results if result.record],
                self.cases,
                self.asked.because,
                self.store,
                self.target,
                present=self.baselines,
                failed=failures(self.results),
                force=self.asked.force,
            )
        except accepting.RefusedError as refused:
            print_note(str(refused))
            return CRASHED if crashed else USAGE
        print_accepted(accepted)
        return self.files.code(CRASHED if crashed else OK)


@contextmanager
def _stoppable(last_words: Callable[[], None], patience: float) -> Iterator[None]:
    """End a run with the exit code of a stop also before its first case and after its last."""
    try:
        with signals.handled(last_words, patience):
            yield
    except KeyboardInterrupt as error:
        raise typer.Exit(_stop_code(error)) from None


def _stop_code(stop: KeyboardInterrupt, left: str = "") -> int:
    """Print why a run stopped; returns its exit code."""
    scheduler = isinstance(stop, signals.StopRequest)
    why = f"stopped by {stop}" if scheduler else "interrupted"
    print_note(f"{why}{left}; run the same command to resume")
    return signals.STOPPED if scheduler else INTERRUPTED


def _print_estimates(asked: Options, cases: list[Case]) -> None:
    found = estimates.look(cases, Store(asked.store), asked.device, fresh=asked.fresh)
    total = estimates.totals(cases, found)
    for line in sentences.dry_run_lines(found, total):
        print_line(line)
    if asked.json_file:
        write_json(asked.json_file, {"cases": found, "total": total})
