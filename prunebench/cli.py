"""The command line: parse, call one function, print, exit code."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from . import (
    __version__,
    accepting,
    casefile,
    cli_baseline,
    cli_cache,
    cli_calibrate,
    cli_doctor,
    cli_export,
    cli_history,
    cli_init,
    cli_leaderboard,
    cli_notify,
    completing,
    execution,
    gates,
    gating,
    grammar,
    outlook,
    report,
    shelf,
    signals,
    tables,
)
from .api import Target
from .baseline import OWN, Baselines
from .case import Case
from .errors import PrunebenchError, SearchError
from .evidence import p_among
from .files import write_json
from .layers import Setting
from .machine import before_torch, has_gpu_files
from .options import (
    DEFAULT_STORE,
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
    case_paths,
    chosen_cases,
    default_baselines,
    defined,
    plain_warnings,
    print_json,
    say,
    stored_case,
    tell,
)
from .outputs import Outputs
from .plan import describe
from .progress import Display
from .session import (
    CRASHED,
    INTERRUPTED,
    OK,
    USAGE,
    Result,
    Session,
    exit_code,
)
from .store import Store
from .verdict import ALPHA

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
        bool, typer.Option("--dry-run", help="Only tell what would run, from where, and how long.")
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
    how = execution.How(workers, per_gpu, executor, tuple(slurm or ()), detach)
    how.check()
    roots = Baselines(baselines or default_baselines())
    results: list[Result] = []
    stopped: KeyboardInterrupt | None = None

    outputs = Outputs(json_file, junit_file, markdown_file, on_github, strict=strict)

    def write() -> None:
        outputs.write(results, len(cases) - len(results))

    with signals.handled(write), Display(len(cases), quiet=quiet) as display:
        session = Session(
            cases,
            Store(store),
            roots,
            how.device_here(device),
            fresh=fresh,
            fail_on=outcomes,
            conditions=conditions,
            alpha=alpha,
            progress=display.step,
        )
        try:
            if how.here or device == "cpu" or not has_gpu_files():
                for case, kept in session.going_on():
                    say(f"going on: {case.label} {kept}")
                display.expect(
                    lambda: (cases, outlook.look(cases, session.store, device, fresh=fresh))
                )
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
    tables.table(results, report.console())
    outputs.tell(results, len(cases) - len(results))
    if not (keyword or settings) and (behind := shelf.hint(roots, cases)):
        say(behind)
    if stopped is not None:
        left = len(cases) - len(results)
        asked = isinstance(stopped, signals.StopRequest)
        end = f"stopped by {stopped}" if asked else "interrupted"
        say(f"{end} with {left} of {len(cases)} cases left; run the same command to go on")
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
                failed=accepting.failures(results),
                force=force,
            )
        except accepting.RefusedError as refused:
            say(str(refused))
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
        print_json(grammar.json_schema())
        return
    files = casefile.find(case_paths(paths))
    cases = casefile.load(files)
    if as_json:
        print_json({"files": [str(f) for f in files], "cases": [c.id for c in cases]})
    else:
        tell(f"{len(cases)} cases in {len(files)} files: ok")


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
    cases = chosen_cases(paths, keyword)
    kept = Store(store)
    records = accepting.newest(cases, kept)
    roots = Baselines(baselines or OWN)
    present = Baselines(baselines or default_baselines())
    taken = accepting.accept(records, cases, because, kept, roots, present=present, force=force)
    _tell_accepted(taken)
    raise typer.Exit(OK if taken.written else CRASHED)


@app.command()
def show(
    case_id: Annotated[
        str,
        typer.Argument(
            help="A case id, or the end of one.", autocompletion=completing.stored_cases
        ),
    ],
    why: Annotated[
        bool, typer.Option("--explain", help="Tell every finding with the numbers behind it.")
    ] = False,
    origin: Annotated[
        bool, typer.Option("--provenance", help="Tell where the record comes from.")
    ] = False,
    as_json: AsJson = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Show the newest record of a case beside its baseline."""
    from . import explain, provenance, published, showing, verdict

    records = Store(store)
    found = stored_case(case_id, records)
    record = records.latest(found)
    if record is None:
        raise PrunebenchError(f"the records of {found!r} are damaged; run it again")
    roots = Baselines(baselines or default_baselines())
    was = roots.load(record.case_id, record.environment.device)
    cases = defined([record.case_id])
    case = cases.get(record.case_id)
    tolerance = case.tolerance_for if case else casefile.default_tolerance
    rows = published.matching(record, published.rows(roots.published))
    more = published.findings(record, rows, case.published) if case and case.published else ()
    rules = case.rules() if case else None
    conditions = case.conditions if case else ()
    more = [*more, *gating.findings(record, was, conditions, p_among(record, was))]
    judged = verdict.compare(record, was, tolerance, more=more, rules=rules)
    if as_json:
        print_json({"record": record, "baseline": was, "verdict": judged, "published": rows})
    else:
        shown = showing.gathered(record, judged, records, roots, rows, list(cases.values()))
        showing.show(shown, report.console(), trace=why)
        for line in explain.explanation(record, was, judged) if why else ():
            tell(line)
        for line in provenance.told(record) if origin else ():
            tell(line)


@app.command()
def power(
    paths: Paths = None,
    keyword: Keyword = "",
    detect: Annotated[
        str, typer.Option(metavar="DROP", help="How many questions find it, e.g. 0.5pp.")
    ] = "",
    disagreement: Annotated[
        str, typer.Option(metavar="PART", help="Questions on which only one model is right.")
    ] = "5%",
    alpha: Alpha = None,
    chance: Annotated[
        float, typer.Option("--power", min=0.5, max=0.999, help="Probability to find it.")
    ] = 0.8,
    as_json: AsJson = False,
    baselines: BaselineDir = None,
) -> None:
    """Say what drop each gate could see, or how many questions it takes to see one."""
    part = gates.fraction(disagreement, "--disagreement")
    if detect:
        drop = gates.fraction(detect, "--detect")
        level = alpha or ALPHA
        count = gates.questions(drop, part, level, chance)
        if as_json:
            print_json({"detect": drop, "disagreement": part, "questions": count})
        else:
            how = f"one-sided {level:g}, {chance:.0%} of the time, {part:.1%} disagreement"
            tell(f"a drop of {drop * 100:g} pp takes {count:,} questions ({how})")
        return
    roots = Baselines(baselines or default_baselines())
    found = list(gates.of_cases(chosen_cases(paths, keyword), roots, part, alpha, chance))
    if as_json:
        print_json(found)
    else:
        tables.gates_table(found, report.console())


@app.command()
def prune(
    model: Annotated[str, typer.Argument(help="A folder or hub id.", show_default=False)],
    method: Annotated[
        str,
        typer.Option(metavar="NAME", help="The pruning method.", autocompletion=completing.methods),
    ],
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A method option.")
    ] = None,
    sparsity: Annotated[float | None, typer.Option(help="Fraction of all parameters.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Blocks to remove.")] = None,
    sublayers: Annotated[int | None, typer.Option(help="Sublayers to remove.")] = None,
    slicing: Annotated[float | None, typer.Option(help="Fraction of the width.")] = None,
    calibration_ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON: windows of token ids.")
    ] = None,
    eval_ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON: windows to evaluate on.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save the pruned checkpoint here.")
    ] = None,
    json_file: JsonFile = None,
    dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16 or auto.")] = "float32",
    device: Annotated[str, typer.Option(metavar="D", help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Prune one model: choose, apply, and evaluate or save where asked."""
    given = {"sparsity": sparsity, "blocks": blocks, "sublayers": sublayers, "slicing": slicing}
    amounts = {key: value for key, value in given.items() if value is not None}
    options = {s.key: s.value for s in (Setting.parse(t, "--option") for t in option or ())}
    chosen = grammar.build_method(method, options)
    flags = {**amounts, "model": {"id": model, "dtype": dtype}}
    problems = [f"--{w[-1]}: {m}" for w, m in grammar.check_keys(flags, ())]
    problems += [p for p in [grammar.amount_problem(chosen, list(amounts))] if p]
    if problems:
        raise PrunebenchError("\n".join(problems))
    before_torch()
    from . import pruning

    pruned = pruning.prune(
        model,
        chosen,
        Target(**amounts),  # type: ignore[arg-type]  # checked above
        calibration_ids=calibration_ids,
        eval_ids=eval_ids,
        output=output,
        dtype=dtype,
        device=device,
    )
    if json_file:
        if pruned.tensors is not None:
            pruned.tensors.save(json_file.parent)
        write_json(json_file, pruning.to_json(pruned))
    tell(f"{describe(pruned.plan)}; sparsity {pruned.sparsity:.2%}")
    if (ppl := pruned.perplexity) is not None:
        tell(f"perplexity {ppl.dense:.4f} dense, {ppl.pruned:.4f} pruned")


@app.command(name="import-plan")
def import_plan(
    file: Annotated[Path, typer.Argument(help="A removal list: JSON, CSV or plain text.")],
    output: Annotated[
        Path | None, typer.Option(metavar="PLAN", help="Write the plan here, else print it.")
    ] = None,
    unit: Annotated[
        Literal["blocks", "sublayers"],
        typer.Option(help="What a bare number counts; sublayers: 2b attention, 2b+1 MLP."),
    ] = "blocks",
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N of a ranking.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="M", help="Check that it fits this folder or hub id.")
    ] = None,
) -> None:
    """Make a plan of somebody's removal list, for cases with {name: external, plan: PLAN}."""
    from . import planfile

    plan = planfile.imported(file, unit, count)
    if model is not None:
        planfile.check_fits(plan.edits, model)
    data = {"plan": plan.edits, "source": file.name}
    if output is None:
        print_json(data)
        return
    if plan.tensors is not None:
        plan.tensors.save(output.parent)
    write_json(output, data)
    tell(f"{output}: {describe(plan.edits)}")
    tell(f"in a case: method: {{name: external, plan: ./{output.name}}}")


app.command()(cli_calibrate.calibrate)
cli_history.register(app)
app.add_typer(cli_baseline.app, name="baseline")
app.add_typer(cli_cache.app, name="cache")
app.command()(cli_doctor.doctor)
cli_export.register(app)
cli_notify.register(app)
cli_init.register(app)
cli_leaderboard.register(app)


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
        say(str(error))
        sys.exit(CRASHED if isinstance(error, SearchError) else USAGE)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away; Python would complain once more at exit
        sys.exit(OK)
    except OSError as error:  # a name that is too long, a folder without rights, a full disk
        say(f"{error.filename or 'a file'}: {error.strerror or error}")
        sys.exit(USAGE)
    sys.exit(OK)


def _tell_outlook(
    cases: list[Case], store: Store, device: str | None, *, fresh: bool, json_file: Path | None
) -> None:
    outlooks = outlook.look(cases, store, device, fresh=fresh)
    total = outlook.totals(cases, outlooks)
    for line in report.outlook_lines(outlooks, total):
        tell(line)
    if json_file:
        write_json(json_file, {"cases": outlooks, "total": total})


def _list(cases: list[Case], *, as_json: bool) -> None:
    if as_json:
        print_json([{"id": c.id, "file": str(c.file), "line": c.line, **c.asked} for c in cases])
        return
    for case in cases:
        tell(case.id)


def _tell_accepted(taken: accepting.Acceptance) -> None:
    for line in taken.overridden:
        say(f"overridden: {line.rpartition('; ')[0]}")
    if not taken.written:
        say("nothing was accepted: no record of a case that is compared with a baseline")
    for path in taken.written:
        tell(f"accepted {path}")
