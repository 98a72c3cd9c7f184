"""The command line: parse, call one function, print, exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ..case import Case
from ..cases import keys, loader
from ..errors import PrunebenchError, SearchError
from ..reports import run_table, sentences
from ..reports.progress_bar import Display
from ..reports.run_files import Outputs
from ..results.baselines import accept as accepting
from ..results.baselines import review
from ..results.baselines.files import OWN, Baselines
from ..results.resume import folders
from ..results.store import Store
from ..runs import dry_run as outlook
from ..runs import execution
from ..runs.session import (
    CRASHED,
    INTERRUPTED,
    NOTHING,
    OK,
    USAGE,
    Result,
    Session,
    command_options,
    exit_code,
    failures,
)
from ..system import signals
from ..system.console import plain_warnings, print_line, print_note
from ..system.files import write_json
from ..system.machine import has_gpu_files
from ..verdicts import fail_on as gating
from ..version import __version__
from . import (
    baseline,
    cache,
    calibrate,
    doctor,
    export,
    history,
    init,
    leaderboard,
    notify,
    prune,
    show,
)
from .options import (
    Alpha,
    AsJson,
    BaselineDir,
    Because,
    Detach,
    Device,
    ExecutorName,
    FailOn,
    Force,
    JsonFile,
    JunitFile,
    Keyword,
    Limit,
    MarkdownFile,
    OnGithub,
    Paths,
    PerGpu,
    Settings,
    SlurmOptions,
    StoreDir,
    WorkerCount,
    chosen_cases,
    print_json,
    read_baselines,
    tell_cut_off,
)
from .paths import DEFAULT_STORE, case_paths, default_baselines

app = typer.Typer(
    help="Benchmark and regression harness for structured LLM pruning.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help and plain usage errors: they are read by scripts and logs
    pretty_exceptions_enable=False,
)


@app.command()
def run(  # one parameter per option of the contract
    paths: Paths = None,
    keyword: Keyword = "",
    settings: Settings = None,
    accept: Annotated[bool, typer.Option("--accept", help="Make the records baselines.")] = False,
    because: Because = "",
    force: Force = False,
    device: Device = None,
    limit: Limit = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ignore stored results, partial ones too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would run and from where.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Unsure, new and not comparable fail too.")
    ] = False,
    json_file: JsonFile = None,
    junit_file: JunitFile = None,
    markdown_file: MarkdownFile = None,
    on_github: OnGithub = None,
    fail_on: FailOn = "",
    alpha: Alpha = None,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
    workers: WorkerCount = "",
    per_gpu: PerGpu = 1,
    executor: ExecutorName = "",
    slurm: SlurmOptions = None,
    detach: Detach = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress display.")] = False,
) -> None:
    """Run cases and compare them with their baselines; a regression exits 1."""
    cases = chosen_cases(paths, keyword, settings, limit)
    if accept and not because.strip():
        raise PrunebenchError("--accept needs --because TEXT: a baseline changes for a reason")
    if because and not accept:
        raise PrunebenchError("--because goes with --accept: it is the reason of a new baseline")
    if accept and detach:
        raise PrunebenchError("--accept and --detach exclude each other: nothing is measured yet")
    if force and not accept:
        raise PrunebenchError("--force goes with --accept: it overrides what guards a baseline")
    if accept and limit:
        raise PrunebenchError("--accept and --limit exclude each other: that run is partial")
    outcomes, conditions = gating.given(
        fail_on, "--fail-on", [f for c in cases for f in c.families]
    )
    if dry_run:
        _tell_outlook(cases, Store(store), device, fresh=fresh, json_file=json_file)
        return
    how = execution.ExecutionOptions(workers, per_gpu, executor, tuple(slurm or ()), detach)
    how.check()
    if baselines is not None and not baselines.exists() and not accept:
        print_note(f"--baselines {baselines}: no such folder, so that every case is new")
    if accept:
        accepting.end(Baselines(baselines or OWN))
    roots = read_baselines(baselines)
    results: list[Result] = []
    stopped: KeyboardInterrupt | None = None

    outputs = Outputs(json_file, junit_file, markdown_file, on_github, strict=strict)

    def write() -> None:
        outputs.write(results, len(cases) - len(results))

    def last_words() -> None:
        folders.last_words()
        write()  # afterwards: a pipe may have a reader who takes his time
        print_note("stopped in the middle of a call; run the same command to go on")

    with _stoppable(last_words, how.patience):
        with Display(len(cases), quiet=quiet) as display:
            session = Session(
                cases,
                Store(store),
                roots,
                how.device_here(device),
                fresh=fresh,
                fail_on=outcomes,
                conditions=conditions,
                alpha=alpha,
                options=command_options(
                    {
                        "--device": device,
                        "--limit": limit,
                        "--fail-on": fail_on,
                        "--alpha": alpha,
                        "--strict": strict,
                        "--baselines": baselines,
                        "--store": None if store == DEFAULT_STORE else store,
                    }
                ),
                progress=display.step,
            )
            try:
                if how.here or device == "cpu" or not has_gpu_files():
                    for case, kept in session.going_on():
                        print_note(f"going on: {case.label} {kept}")
                with closing(execution.answers(session, device, how, display)) as answers:
                    for result in answers:
                        results.append(result)
                        display.done(result)
                session.partials.tidy()
            except KeyboardInterrupt as error:
                stopped = error
                results += session.cut_off(results)
            finally:
                results = session.settled(execution.in_order(results, cases))
                write()
        if results:  # none but of a run that was stopped or detached
            run_table.table(results, sentences.console())
        outputs.tell(results, len(cases) - len(results))
        if not (keyword or settings) and (behind := review.hint(roots, cases)):
            print_note(behind)
        if stopped is not None:
            left = len(cases) - len(results)
            asked = isinstance(stopped, signals.StopRequest)
            end = f"stopped by {stopped}" if asked else "interrupted"
            print_note(
                f"{end} with {left} of {len(cases)} cases left; run the same command to go on"
            )
            raise typer.Exit(signals.STOPPED if asked else INTERRUPTED)
        if accept:
            crashed = any(r.verdict.error for r in results)
            try:
                taken = accepting.accept(
                    [r.record for r in results if r.record],
                    cases,
                    because,
                    Store(store),
                    Baselines(baselines or OWN),
                    present=roots,
                    failed=failures(results),
                    force=force,
                )
            except accepting.RefusedError as refused:
                print_note(str(refused))
                raise typer.Exit(CRASHED if crashed else USAGE) from None
            _tell_accepted(taken)
            raise typer.Exit(outputs.code(CRASHED if crashed else OK))
        raise typer.Exit(outputs.code(exit_code([r.verdict for r in results], strict=strict)))


@app.command(name="list")
def list_cases(
    paths: Paths = None,
    keyword: Keyword = "",
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List cases without running them."""
    _list(chosen_cases(paths, keyword, settings), as_json=as_json)


@app.command()
def check(
    paths: Paths = None,
    as_json: AsJson = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of case files instead.")
    ] = False,
) -> None:
    """Check case files: every problem at once, as file:line:column."""
    if schema:
        print_json(keys.json_schema())
        return
    tell_cut_off([default_baselines()])
    files = loader.find(case_paths(paths))
    cases = loader.load(files)
    if not cases:  # a mistyped folder is not to pass for a good one
        print_note(f"no cases in {', '.join(map(str, case_paths(paths)))}")
        raise typer.Exit(NOTHING)
    if as_json:
        print_json({"files": [str(f) for f in files], "cases": [c.id for c in cases]})
    else:
        one, many = len(cases) == 1, len(files) != 1
        print_line(f"{len(cases)} case{'s' * (not one)} in {len(files)} file{'s' * many}: ok")


@app.command()
def accept(
    paths: Paths = None,
    keyword: Keyword = "",
    because: Because = "",
    force: Force = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Make the newest stored records the baselines, with a reason: all of them, or none."""
    if not because.strip():
        raise PrunebenchError("accept needs --because TEXT: a baseline changes for a reason")
    roots = Baselines(baselines or OWN)
    accepting.end(roots)
    cases = chosen_cases(paths, keyword)
    kept = Store(store)
    records = accepting.newest(cases, kept)
    present = Baselines(baselines or default_baselines())
    taken = accepting.accept(records, cases, because, kept, roots, present=present, force=force)
    _tell_accepted(taken)
    raise typer.Exit(OK if taken.written else CRASHED)


show.register(app)
prune.register(app)
app.command()(calibrate.calibrate)
history.register(app)
app.add_typer(baseline.app, name="baseline")
app.add_typer(cache.app, name="cache")
app.command()(doctor.doctor)
export.register(app)
notify.register(app)
init.register(app)
leaderboard.register(app)


def _version(value: bool) -> None:
    if value:
        print(f"prunebench {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> NoReturn:
    """The console entry point; raises SystemExit.

    Bad input ends as one plain line per problem on standard error and exit code 2.
    """
    plain_warnings()
    try:
        app(standalone_mode=True)
    except SystemExit as stop:
        # click ends an interrupt with 1, which here means a regression.
        if isinstance(stop.__context__, typer.Abort):
            sys.exit(INTERRUPTED)
        raise
    except PrunebenchError as error:
        print_note(str(error))
        sys.exit(CRASHED if isinstance(error, SearchError) else USAGE)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away; Python would complain once more at exit
        sys.exit(OK)
    except OSError as error:  # a name that is too long, a folder without rights, a full disk
        print_note(f"{error.filename or 'a file'}: {error.strerror or error}")
        sys.exit(USAGE)
    sys.exit(OK)


@contextmanager
def _stoppable(last_words: Callable[[], None], patience: float) -> Iterator[None]:
    """End a run with its code also where it is stopped before its cases or after them."""
    try:
        with signals.handled(last_words, patience):
            yield
    except KeyboardInterrupt as error:
        asked = isinstance(error, signals.StopRequest)
        print_note(
            f"{f'stopped by {error}' if asked else 'interrupted'}; run the same command to go on"
        )
        raise typer.Exit(signals.STOPPED if asked else INTERRUPTED) from None


def _tell_outlook(
    cases: list[Case], store: Store, device: str | None, *, fresh: bool, json_file: Path | None
) -> None:
    outlooks = outlook.look(cases, store, device, fresh=fresh)
    total = outlook.totals(cases, outlooks)
    for line in sentences.outlook_lines(outlooks, total):
        print_line(line)
    if json_file:
        write_json(json_file, {"cases": outlooks, "total": total})


def _list(cases: list[Case], *, as_json: bool) -> None:
    if as_json:
        print_json([{"id": c.id, "file": str(c.file), "line": c.line, **c.asked} for c in cases])
        return
    for case in cases:
        print_line(case.id)


def _tell_accepted(taken: accepting.Acceptance) -> None:
    for line in taken.overridden:
        print_note(f"overridden: {line.rpartition('; ')[0]}")
    if not taken.written:
        print_note("nothing was accepted: no record of a case that is compared with a baseline")
    for path in taken.written:
        print_line(f"accepted {path}")
