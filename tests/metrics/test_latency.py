"""Timings: what is timed, in which order, how often, and what is said when it cannot be."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from factories import FAMILIES

import prunebench
from prunebench import (
    DropBlocks,
    DropSublayers,
    Measurement,
    Plan,
    PrunebenchError,
    Tolerance,
    apply,
    load_model,
    reference,
)
from prunebench.metrics import latency
from prunebench.metrics.latency import Latency, spread
from prunebench.models import timing
from prunebench.models.timing import Compiled, CpuClock, CudaClock, Round, Shape, Timer
from prunebench.system import machine, nvml
from prunebench.verdicts.verdict import judge

# torch's compiler warns about its own internals when it is first imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

PLACE = "latency/hf-eager-1x8+3"
REAL_OF = nvml.Gpu.of


@pytest.fixture(scope="module")
def lm() -> prunebench.CausalLM:
    return load_model(reference.MODEL_ID, dtype="float32")


@pytest.fixture
def half(lm) -> prunebench.CausalLM:
    return apply(lm.share(), Plan((DropBlocks(tuple(range(1, 11))),)))


def test_every_sample_of_both_models_is_kept(lm, half) -> None:
    """A round gives one sample of everything; time to first token and the rest make the whole."""
    metric = Latency(prompt_tokens=8, new_tokens=3, rounds=4, warmup=0)
    by_name = {m.metric.removeprefix(f"{PLACE}/"): m for m in metric.measure(half, lm)}

    assert set(by_name) == {
        "ttft", "tpot", "throughput", "total-time",
        "speedup-prefill", "speedup-decode", "speedup-end-to-end",
    }  # fmt: skip
    assert all(len(m.samples) == 4 for m in by_name.values())
    assert all(m.varies and not m.paired for m in by_name.values())
    for first, per, total, rate in zip(
        *(by_name[n].samples for n in ("ttft", "tpot", "total-time", "throughput")), strict=True
    ):
        assert first + 2 * per == pytest.approx(total)
        assert rate == pytest.approx(3 / total * 1e3)


def test_speedups_are_medians_of_the_rounds_ratios(lm, half, monkeypatch) -> None:
    """With times given, by hand; a pace that changes meets both models and no ratio."""
    dense = [Round(0.2, 1.0), Round(0.4, 2.0), Round(0.9, 9.0)]
    pruned = [Round(0.1, 0.5), Round(0.2, 0.8), Round(0.3, 0.9)]
    monkeypatch.setattr(Latency, "_all_rounds", lambda *_: ([dense, pruned], ""))
    by_name = {m.metric: m for m in Latency(prompt_tokens=8, new_tokens=3).measure(half, lm)}

    assert by_name[f"{PLACE}/speedup-prefill"].value == pytest.approx(2)
    assert by_name[f"{PLACE}/speedup-decode"].value == pytest.approx(1.6 / 0.6)
    assert by_name[f"{PLACE}/speedup-end-to-end"].value == pytest.approx(2.0 / 0.8)
    assert by_name[f"{PLACE}/speedup-prefill"].samples == pytest.approx((2, 2, 3))
    assert by_name[f"{PLACE}/tpot"].value == pytest.approx(0.6 / 2 * 1e3)
    slow = [3, 3, 1, 1]
    dense = [Round(0.2 * s, 1.0 * s) for s in (1, *slow)]
    pruned = [Round(0.1 * s, 0.8 * s) for s in (3, *slow)]
    by_name = {m.metric: m for m in Latency(prompt_tokens=8, new_tokens=3).measure(half, lm)}
    assert by_name[f"{PLACE}/speedup-end-to-end"].value == pytest.approx(1.0 / 0.8)


def test_the_dense_model_has_no_speedup(lm) -> None:
    """It is what the others are compared with."""
    names = [m.metric for m in Latency(prompt_tokens=8, new_tokens=1).measure(lm, lm)]

    assert names == [f"latency/hf-eager-1x8+1/{w}" for w in ("ttft", "throughput", "total-time")]


def test_reading_alone_makes_no_cache(lm, half) -> None:
    """Prompt processing as SLEB times it: one forward, every logit, nothing kept."""
    seen = []
    handle = half.hf.register_forward_hook(
        lambda _, __, given, out: seen.append((given["use_cache"], out.logits.shape)),
        with_kwargs=True,
    )
    metric = Latency(batch_size=2, prompt_tokens=8, new_tokens=0, rounds=3, warmup=1)
    by_name = {m.metric: m for m in metric.measure(half, lm)}
    handle.remove()

    assert seen == [(False, (2, 8, lm.hf.config.vocab_size))] * 4
    assert set(by_name) == {
        f"latency/hf-eager-2x8+0/{w}" for w in ("prefill", "throughput", "speedup-prefill")
    }


def test_a_slower_model_shows_as_slower(lm) -> None:
    """A sleep of 10 ms in every forward is 10 ms per token and a speedup below one."""
    slow = lm.share()
    slow.blocks[0].register_forward_pre_hook(lambda *_: time.sleep(0.01))
    metric = Latency(prompt_tokens=8, new_tokens=3, rounds=5, warmup=1)
    by_name = {m.metric: m for m in metric.measure(slow, lm)}

    assert min(by_name[f"{PLACE}/tpot"].samples) >= 10
    assert by_name[f"{PLACE}/speedup-decode"].value < 1


def test_models_are_timed_in_turned_order(lm, half, monkeypatch) -> None:
    """Dense, pruned, pruned, dense, ...: a drift of the machine meets both alike."""
    order = []
    whole = len(lm.blocks)
    monkeypatch.setattr(
        Timer, "time", lambda self: order.append(len(self.lm.blocks) == whole) or Round(0.1, 0.2)
    )
    list(Latency(prompt_tokens=8, new_tokens=3, rounds=4, warmup=0).measure(half, lm))

    assert order == [True, False, False, True, True, False, False, True]


def test_both_models_are_timed_as_copies_over_the_same_weights(lm, half, monkeypatch) -> None:
    """A model as loaded is a hundredth faster than the copy that a pruned model is made from."""
    timed: set[Any] = set()
    monkeypatch.setattr(Timer, "time", lambda self: timed.add(self.lm) or Round(0.1, 0.2))
    list(Latency(prompt_tokens=8, new_tokens=3, rounds=3).measure(half, lm))
    small, large = sorted(timed, key=lambda model: len(model.blocks))

    for copy, model in ((small, half), (large, lm)):
        assert copy.hf is not model.hf
        pairs = zip(copy.hf.parameters(), model.hf.parameters(), strict=True)
        assert all(mine is theirs for mine, theirs in pairs)


@pytest.mark.slow
def test_rounds_go_on_until_the_median_is_known(lm, half, monkeypatch) -> None:
    """Noise of 10 % needs more rounds than 5; no noise needs six, which bound a median at all."""

    def rounds(noise: float, **options: Any) -> int:
        draws = itertools.cycle([1 - noise, 1.0, 1 + noise, 1.0])
        monkeypatch.setattr(Timer, "time", lambda _: Round(0.1, next(draws)))
        metric = Latency(prompt_tokens=8, new_tokens=3, rounds=5, warmup=0, **options)
        return len(next(iter(metric.measure(lm, lm))).samples)

    assert rounds(0.1) == 5
    assert rounds(0, precision=0.01) == 6
    assert 10 < rounds(0.1, precision=0.05) < 200
    assert rounds(0.1, precision=0.0001, max_rounds=17) == 17
    assert rounds(0.1, precision=0.0001, max_seconds=1e-9) == 5


def test_the_interval_of_the_median_holds_it_95_times_in_100() -> None:
    """By its definition through the binomial distribution, and by drawing."""
    assert spread([1.0] * 5) == math.inf
    assert spread([1, 2, 3, 4, 5, 6]) == pytest.approx((6 - 1) / 2 / 3.5)
    # Of ten values the second and ninth: 2 * (1 + 10) / 1024 = 2.1 % lie outside.
    assert spread(range(1, 11)) == pytest.approx((9 - 2) / 2 / 5.5)
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(400):
        values = (torch.randn(25, generator=generator) + 10).tolist()
        middle = statistics.median(values)
        ordered = sorted(values)
        width = spread(values) * middle
        low = next(i for i in range(25) if (ordered[24 - i] - ordered[i]) / 2 <= width + 1e-9)
        held += ordered[low] <= 10 <= ordered[24 - low]
    assert held / 400 > 0.93


def out_of_memory(limit: int) -> Any:
    """A forward that fails for models of more than *limit* blocks."""
    inner = Timer.time

    def time_once(self: Timer) -> Round:
        if len(self.lm.blocks) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(self)

    return time_once


@pytest.mark.slow
def test_out_of_memory_is_said_not_raised(lm, half, monkeypatch) -> None:
    """A model that fits where the dense one does not has times, and no speedup."""
    monkeypatch.setattr(Timer, "time", out_of_memory(limit=2))
    metric = Latency(batch_size=4, prompt_tokens=8, new_tokens=2, rounds=3, warmup=0)
    by_name = {m.metric.split("/")[-1]: m for m in metric.measure(half, lm)}
    full = "out of memory at batch 4, 8 + 2 tokens"

    assert by_name["ttft"].value > 0
    assert by_name["ttft"].note == ""
    assert by_name["speedup-decode"].value is None
    assert by_name["speedup-decode"].note == f"dense: {full}"
    (first, *_) = metric.measure(lm, lm)
    assert (first.value, first.note) == (None, full)


def test_a_note_is_the_verdicts_reason() -> None:
    """Out of memory before and now is the same; a shared GPU is compared with nothing."""
    fine = Measurement("latency/x", 1.0, "ms", "lower")
    full = Measurement("latency/x", None, "ms", "lower", note="out of memory at batch 4")
    shared = Measurement("latency/x", 9.0, "ms", "lower", note="the GPU was shared")
    pairs = ((full, full), (full, fine), (fine, full), (shared, fine), (fine, shared))
    found = [judge(now, was, Tolerance()) for now, was in pairs]
    outcomes = [(str(finding.outcome), finding.note) for finding in found]

    assert outcomes == [
        ("same", "out of memory at batch 4"),
        ("worse", "out of memory at batch 4"),
        ("not_comparable", "out of memory at batch 4"),
        ("not_comparable", "the GPU was shared"),
        ("not_comparable", "the GPU was shared"),
    ]


class FakeEvent:
    """An event of a stream on which every record comes 2 ms after the last."""

    now = 0.0
    waited: list[float] = []  # noqa: RUF012

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, _: Any) -> None:
        FakeEvent.now += 2.0
        self.at = FakeEvent.now

    def synchronize(self) -> None:
        FakeEvent.waited.append(self.at)

    def elapsed_time(self, other: FakeEvent) -> float:
        return other.at - self.at


def test_the_gpus_clock_waits_once_at_the_end(monkeypatch) -> None:
    """Milliseconds between events become seconds; only the last event is waited for."""
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    clock = CudaClock(torch.device("cuda"))
    for _ in range(3):
        clock.mark()

    assert clock.spans() == [0.002, 0.002]
    assert FakeEvent.waited == [FakeEvent.now]


def test_the_cpus_clock_counts_seconds() -> None:
    """A sleep is at least as long as it says."""
    clock = CpuClock()
    clock.mark()
    time.sleep(0.01)
    clock.mark()

    assert 0.01 <= clock.spans()[0] < 1


# ---------------------------------------------------------------------- compiled


@pytest.fixture
def traced(monkeypatch):
    """Graphs as torch.compile captures them, run without generating code: seconds less per test."""
    monkeypatch.setattr(Compiled, "compiler", "eager")
    yield
    torch._dynamo.reset()


@pytest.fixture
def graphs(monkeypatch):
    """What torch.compile would hand to its compiler, as graphs of plain operations."""
    from torch._dynamo.backends.common import aot_autograd

    found: list[Any] = []

    def keep(graph: Any, _: Any) -> Any:
        found.append(graph.graph)
        return graph.forward

    monkeypatch.setattr(Compiled, "compiler", staticmethod(aot_autograd(fw_compiler=keep)))
    yield found
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_steps_write_what_eager_ones_write(family: str, tiny, graphs) -> None:
    """One graph for every step, past a sliding window too, that asks the device for no number.

    A second graph would be compiled and captured while the time runs; a number read by the
    processor, as OPT's mask would, is a wait per token and keeps CUDA graphs from being made.
    """
    lm = tiny(family, blocks=4)
    shape = Shape(2, 5, 20)

    assert Timer(lm, shape, "hf-compiled").tokens() == Timer(lm, shape).tokens()
    (graph,) = graphs
    assert not [n for n in graph.nodes if "_local_scalar_dense" in str(n.target)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_prompt_is_read_as_the_eager_one_is(family: str, tiny, graphs) -> None:
    """The same logits, and attention keeps its causal kernel unless a window needs a mask."""
    lm = tiny(family, blocks=4)
    timer = Timer(lm, Shape(2, 12, 0), "hf-compiled")
    timer.time()
    with torch.no_grad():
        compiled, eager = timer._runs._read(timer._prompt), lm.hf(timer._prompt, use_cache=False)

    assert torch.allclose(compiled, eager.logits, atol=1e-5)
    (graph,) = graphs
    calls = [n for n in graph.nodes if "attention" in str(n.target)]
    windows = {"mistral": 4, "qwen2": 1}.get(family, 0)
    assert len(calls) == 4
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13):
        # With an older torch transformers cannot leave the mask out of what is compiled.
        assert sum(n.kwargs.get("attn_mask") is not None for n in calls) == windows


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["hf-eager", "hf-compiled"])
def test_a_round_is_forgotten_outside_of_its_time(backend: str, tiny, traced, monkeypatch) -> None:
    """No cache is emptied between the marks, and none is left for the other model to fit beside."""
    timer = Timer(tiny("llama"), Shape(2, 5, 6), backend)
    timer.time()
    events = []
    for name in ("first", "reset"):
        inner = getattr(timer._runs, name)
        monkeypatch.setattr(
            timer._runs, name, lambda *a, n=name, f=inner: events.append(n) or f(*a)
        )
    clock = SimpleNamespace(
        mark=lambda: events.append("mark"), spans=lambda: events.append("spans") or [1.0, 1.0]
    )
    monkeypatch.setattr(timer, "_clock", lambda: clock)
    timer.time()

    assert events == ["mark", "first", "mark", "mark", "spans", "reset"]
    if backend == "hf-eager":
        assert timer._runs._cache is None
    else:
        assert not any(layer.keys.any() for layer in timer._runs._cache.layers)


def test_a_round_that_fails_is_forgotten_too(tiny, monkeypatch) -> None:
    """What it had in its cache is free when the smaller model is tried."""
    timer = Timer(tiny("llama"), Shape(1, 5, 6))

    def fail(_: Any) -> Any:
        assert timer._runs._cache is not None
        raise torch.OutOfMemoryError

    monkeypatch.setattr(timer._runs, "step", fail)
    with pytest.raises(torch.OutOfMemoryError):
        timer.time()

    assert timer._runs._cache is None


@pytest.mark.slow
@pytest.mark.parametrize("lost", [((0, "attn"),), ((1, "mlp"), (2, "attn"), (3, "attn"))])
def test_compiled_steps_of_a_model_with_missing_halves(lost: Any, tiny, traced) -> None:
    """Blocks without attention have no place in the cache."""
    lm = apply(tiny("llama"), Plan((DropSublayers(lost),)))
    shape = Shape(1, 5, 6)

    assert Timer(lm, shape, "hf-compiled").tokens() == Timer(lm, shape).tokens()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["slicegpt", "slice_global"])
def test_compiled_steps_of_a_sliced_model(method: str, tiny, traced, ids) -> None:
    """Shortcut matrices at every norm, or a narrower stream."""
    lm = tiny("llama")
    lm = apply(lm, prunebench.choose(lm, method, slicing=0.25, calibration=ids))
    shape = Shape(1, 5, 6)

    assert Timer(lm, shape, "hf-compiled").tokens() == Timer(lm, shape).tokens()


@pytest.mark.slow
def test_a_compiled_timer_can_be_used_again(tiny, traced) -> None:
    """The cache is emptied in place, and the graphs over it are kept."""
    timer = Timer(tiny("llama"), Shape(1, 5, 4), "hf-compiled")
    first = timer.tokens()
    timer.time()

    assert timer.tokens() == first


@pytest.mark.slow
def test_dense_and_pruned_compiled_side_by_side(tiny, traced) -> None:
    """Two models share the code that is compiled; each keeps its own graphs."""
    dense = tiny("llama")
    pruned = apply(dense.share(), Plan((DropBlocks((1, 3)),)))
    metric = Latency(backend="hf-compiled", prompt_tokens=5, new_tokens=4, rounds=3, warmup=1)
    names = {m.metric for m in metric.measure(pruned, dense) if m.value}

    assert "latency/hf-compiled-1x5+4/speedup-decode" in names


@pytest.mark.slow
def test_models_do_not_share_what_is_compiled_of_them(tiny, graphs) -> None:
    """Two where torch.compile may keep one result for a piece of code: each is compiled once."""
    lm = tiny("llama", blocks=2)
    timers = [Timer(lm.share(), Shape(1, 3, 3), "hf-compiled") for _ in range(2)]
    with torch._dynamo.config.patch(recompile_limit=1):
        for timer in timers * 2:
            timer.time()

    assert len(graphs) == 2


def test_a_model_that_cannot_be_compiled_is_one_line(tiny, traced) -> None:
    """A graph break is an error, for what is timed would be something else."""
    lm = tiny("llama")
    lm.blocks[1].register_forward_pre_hook(lambda *_: torch._dynamo.graph_break())
    with pytest.raises(PrunebenchError, match="LlamaForCausalLM cannot be compiled: ") as stop:
        Timer(lm, Shape(1, 5, 4), "hf-compiled").time()

    assert "\n" not in str(stop.value)


@pytest.mark.slow
def test_the_compilers_own_words_are_told(tiny, monkeypatch) -> None:
    """Not only which compiler it was."""

    def compiler(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler found\nset CXX")

    monkeypatch.setattr(Compiled, "compiler", staticmethod(compiler))
    with pytest.raises(PrunebenchError, match=r"cannot be compiled: .*no C\+\+ compiler found$"):
        Timer(tiny("llama"), Shape(1, 5, 4), "hf-compiled").time()
    torch._dynamo.reset()


@pytest.mark.slow
def test_memory_that_a_compiler_runs_out_of_is_no_mistake_of_the_model(tiny, monkeypatch) -> None:
    """It is wrapped in the compiler's error; the measurement says that memory ran out."""

    def compiler(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Compiled, "compiler", staticmethod(compiler))
    lm = tiny("llama")
    metric = Latency(backend="hf-compiled", prompt_tokens=5, new_tokens=4, rounds=3)
    notes = {m.note for m in metric.measure(lm, lm)}

    assert notes == {"out of memory at batch 1, 5 + 4 tokens"}


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."), True),
        (RuntimeError("a size mismatch"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, full: bool) -> None:
    """Torch's own, Python's, and what the processor's allocator only says; by cause as well."""
    wrapped = ValueError("wrapped")
    wrapped.__cause__ = error

    assert timing.out_of_memory(error) is full
    assert timing.out_of_memory(wrapped) is full


# -------------------------------------------------------------------------- NVML


class FakeNvml(SimpleNamespace):
    """The management library over one card."""

    def __init__(self, **facts: Any) -> None:
        usual: dict[str, Any] = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
            "nvmlDeviceGetComputeRunningProcesses": lambda _: [SimpleNamespace(pid=os.getpid())],
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: 0,
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 500_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": lambda _: 700_000,
            "nvmlSystemGetDriverVersion": lambda: "570.1",
        }
        super().__init__(**usual | facts)


@pytest.fixture
def card(monkeypatch):
    """A CUDA device that is not there, as far as its library goes."""
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="abc-1")
    )

    def build(**facts: Any) -> nvml.Gpu:
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(**facts))
        found = REAL_OF("cuda:0")
        assert found is not None
        return found

    return build


@pytest.fixture
def found(monkeypatch):
    """Makes every device the given card."""
    return lambda gpu: monkeypatch.setattr(nvml.Gpu, "of", classmethod(lambda *_: gpu))


def test_a_shared_gpu_is_said_with_who_shares_it(card, found, lm, half) -> None:
    """Its times are told, with a note, and compared with nothing."""
    others = [SimpleNamespace(pid=p) for p in (os.getpid(), 7, 9)]
    gpu = card(nvmlDeviceGetComputeRunningProcesses=lambda _: others)
    found(gpu)
    measured = list(Latency(prompt_tokens=8, new_tokens=2, rounds=3, warmup=0).measure(half, lm))

    assert {m.note for m in measured} == {"the GPU was shared with processes 7, 9"}
    assert all(m.value for m in measured)
    assert card().busy() == ""


def test_in_a_container_a_process_does_not_know_its_own_number(card) -> None:
    """One of those listed is this one: alone it is no other, among several nobody knows which."""

    def busy(*pids: int) -> str:
        listed = [SimpleNamespace(pid=pid) for pid in pids]
        return card(nvmlDeviceGetComputeRunningProcesses=lambda _: listed).busy()

    assert os.getpid() not in (-1, -2)
    assert busy() == ""
    assert busy(-1) == ""
    assert busy(-1, -2) == "the GPU was shared: this is one of its processes -2, -1"
    assert busy(os.getpid(), -2) == "the GPU was shared with process -2"


def test_a_clock_far_below_its_usual_is_held_down(card) -> None:
    """Under three quarters of the median so far, whatever the driver gives as a reason."""
    clocks = iter([1980, 1970, 1400, 1490, 1980])
    gpu = card(nvmlDeviceGetClockInfo=lambda _, kind: next(clocks) if kind == 1 else 0)

    assert [gpu.throttled() for _ in range(5)] == ["", "", "at 1400 of 1970 MHz", "", ""]


def test_newer_libraries_have_another_word_for_throttling(card) -> None:
    """The newer is asked first."""
    gpu = card(nvmlDeviceGetCurrentClocksEventReasons=lambda _: 0x80)

    assert gpu.throttled() == "power brake"


def test_an_instance_of_a_card_asks_the_card_for_clocks_and_heat(card) -> None:
    """A MIG instance is found by its own name, and has its own processes and memory only."""

    def handle(uuid: str) -> str:
        if uuid != "MIG-abc-1":
            raise LookupError
        return "instance"

    def whole(asked: str) -> str:
        if asked != "instance":
            raise LookupError
        return "card"

    def of_card(value: int) -> Any:
        return lambda asked, *_: value if asked == "card" else 1 / 0

    gpu = card(
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetDeviceHandleFromMigDeviceHandle=whole,
        nvmlDeviceGetTemperature=of_card(61),
        nvmlDeviceGetEnforcedPowerLimit=of_card(500_000),
        nvmlDeviceGetCurrentClocksThrottleReasons=of_card(0x40),
        nvmlDeviceGetMemoryInfo=lambda asked: SimpleNamespace(total=len(asked)),
    )

    assert gpu.throttled() == "too hot (hardware)"
    state = gpu.state()
    assert {k: state[k] for k in ("temperature", "power_cap", "memory", "mig")} == {
        "temperature": 61, "power_cap": 500.0, "memory": len("instance"), "mig": 1,
    }  # fmt: skip


def test_a_gpu_that_nobody_watches_is_said(lm, found, monkeypatch) -> None:
    """Without the library timing goes on; a warning says what nobody looked at."""
    from prunebench.errors import PrunebenchWarning

    found(None)
    there = lm.share()
    monkeypatch.setattr(type(there), "device", torch.device("cuda"))
    monkeypatch.setattr(Latency, "_rounds", lambda *_: ([[Round(0.1, 0.2)] * 3], ""))
    with pytest.warns(PrunebenchWarning, match="nvidia-ml-py is not installed"):
        measured = list(Latency(prompt_tokens=8, new_tokens=2).measure(there, there))

    assert all(m.value and not m.note for m in measured)


@pytest.mark.slow
def test_a_throttled_round_is_measured_again(card, found, lm, monkeypatch) -> None:
    """Two hot rounds are lost; a card that stays hot is said after as many rounds again."""
    heat = iter([0x40, 0, 0x20, 0, 0])
    gpu = card(nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: next(heat))
    found(gpu)
    times = itertools.count(1)
    monkeypatch.setattr(Timer, "time", lambda _: Round(next(times), 9))
    metric = Latency(prompt_tokens=8, new_tokens=2, rounds=3, warmup=0)
    first = next(iter(metric.measure(lm, lm)))

    assert first.samples == (2e3, 4e3, 5e3)
    assert first.note == ""
    late = iter([0x40, 0x40, 0x40, 0, 0, 0])
    found(card(nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: next(late)))
    assert next(iter(metric.measure(lm, lm))).note == ""
    always = card(nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: 0x40)
    found(always)
    first = next(iter(metric.measure(lm, lm)))
    assert len(first.samples) == 3
    assert first.note == "the clock was throttled throughout: too hot (hardware)"


def test_what_the_driver_says_and_what_it_does_not(card) -> None:
    """Known facts only: a card without a call leaves its fact out. A power cap is no throttling."""
    gpu = card(nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: 0x04)

    assert gpu.state() == {"driver": "570.1", "power_cap": 500.0, "default_power_cap": 700.0}
    assert gpu.throttled() == ""
    assert nvml.Gpu.of("cpu") is None


def test_a_capped_card_is_another_device(card, monkeypatch) -> None:
    """Absolute times are compared on the same named device only."""
    card()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    machine.device_name.cache_clear()
    assert machine.device_name("cuda:0") == "nvidia-h200-500w"
    card(nvmlDeviceGetEnforcedPowerLimit=lambda _: 700_000)
    machine.device_name.cache_clear()
    assert machine.device_name("cuda:0") == "nvidia-h200"
    machine.device_name.cache_clear()


def test_names_of_backends_are_those_of_the_metric() -> None:
    """What a case may name, the timer has."""
    allowed = latency.Latency.__annotations__["backend"]

    assert all(repr(name) in allowed for name in timing.BACKENDS)
