"""Checks this machine for what makes a run fail or its numbers wrong; each check is a function.

A *note* is worth knowing; a *problem* makes results wrong, lost or impossible.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from msgspec import Struct

from ..cases import loader
from ..data import hub
from ..data.yaml_source import Source
from ..errors import PrunebenchError
from ..results import inventory
from ..results.baselines.files import Baselines
from ..results.store import Store
from ..system import hash_cache
from ..system.locks import has_flock
from ..system.machine import usable_cores
from ..system.nvml import Gpu

State = Literal["ok", "note", "problem"]

GB = 1e9
#: Bytes of free space below which there is a finding: for results, and for models.
LEAST_STORE, LEAST_MODELS = 1 * GB, 20 * GB
#: Seconds by which the clock of a file system may differ.
SKEW = 1.0


class Finding(Struct, frozen=True, omit_defaults=True):
    """The result of a check; *what_to_do* is empty where nothing can be done."""

    check: str
    state: State
    found: str
    what_to_do: str = ""


def libraries() -> Iterator[Finding]:
    """Whether every required library is installed, in a version that prunebench works with."""
    from packaging.requirements import Requirement

    wrong = []
    for text in metadata.requires("prunebench") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            have = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            have = "absent"
        if have == "absent" or not _fits(have, str(wanted.specifier)):
            found = f"{wanted.name} {have}, needs {wanted.specifier}"
            fix = f"pip install '{wanted.name}{wanted.specifier}'"
            wrong.append(Finding("libraries", "problem", found, fix))
    right = Finding("libraries", "ok", "all in the versions that prunebench works with")
    yield from wrong or [right]


def space(store: Path) -> Iterator[Finding]:
    """Whether there is disk space for results, and for models and data of the hub."""
    from huggingface_hub import constants

    for check, place, least in (
        ("space for results", store, LEAST_STORE),
        ("space for models", Path(constants.HF_HUB_CACHE), LEAST_MODELS),
    ):
        free = shutil.disk_usage(_existing(place)).free
        state: State = "ok" if free >= least else "note" if free >= least / 10 else "problem"
        gc = "prunebench cache gc, or 'hf cache' for models; or move it: --store, HF_HOME"
        do = "" if state == "ok" else gc
        yield Finding(check, state, f"{free / GB:.1f} GB free at {place}", do)


def writable(store: Path) -> Finding:
    """Whether results can be written and locked, and whether their clock is this machine's."""
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=_existing(store)) as name:
            if not has_flock(Path(name)):
                found = f"{store} can be written but not locked by flock"
                do = "give --store a local folder, or let one process at a time use this one"
                return Finding("store", "note", found, do)
            now = time.time()
            probe = Path(name, "clock")
            probe.write_text("")
            skew = probe.stat().st_mtime - now
    except OSError as error:
        found = f"{store} cannot be written: {error.strerror}"
        return Finding("store", "problem", found, "give --store a folder that can")
    if abs(skew) > SKEW:
        found = f"the clock of {store} is {skew:+.1f} s off this machine's"
        do = "set both by NTP: these times tell whether a file is still being written"
        return Finding("store", "note", found, do)
    return Finding("store", "ok", f"{store} can be written and locked")


def cache(store: Path, baselines: Path) -> Iterator[Finding]:
    """Whether stored records and baselines are sound, and hashes can be cached."""
    damaged = list(inventory.damage(Store(store), Baselines(baselines)))
    if damaged:
        found = f"{len(damaged)} damaged: {damaged[0]}" + (", ..." if len(damaged) > 1 else "")
        yield Finding("records", "problem", found, "prunebench cache verify names them all")
    else:
        yield Finding("records", "ok", "every record and baseline is sound")
    memory = _existing(hash_cache.memory())
    if os.access(memory, os.W_OK):
        yield Finding("hashes", "ok", f"remembered in {hash_cache.memory()}")
    else:
        found = f"{hash_cache.memory()} cannot be written: checkpoints are hashed in every run"
        yield Finding("hashes", "note", found, "set PRUNEBENCH_CACHE to a folder that can")


def gpu(device: str, look: Callable[[str], Gpu | None] = Gpu.of) -> Iterator[Finding]:
    """Whether the GPU is used by others, throttled, or capped in power."""
    if not device.startswith("cuda"):
        yield Finding("gpu", "ok", f"not used: the device is {device}")
        return
    card = look(device)
    if card is None:
        do = "pip install 'prunebench[gpu]': it shows which other processes use the card"
        yield Finding("gpu", "note", f"the driver says nothing about {device}", do)
        return
    state = card.state()
    busy, held = card.busy(), card.throttled()
    cap, usual = state.get("power_cap"), state.get("default_power_cap")
    if busy:
        yield Finding("gpu", "problem", busy, "stop them, or choose another: --device cuda:1")
    if held:
        do = "wait until it is cool and idle, or see nvidia-smi -q -d PERFORMANCE"
        yield Finding("gpu", "problem", f"its clock is held down: {held}", do)
    if cap and usual and cap < 0.95 * usual:
        found = f"capped at {cap:.0f} W, usual are {usual:.0f} W: timed as a device of its own"
        yield Finding("gpu", "note", found, f"sudo nvidia-smi -pl {usual:.0f}")
    if not (busy or held):
        yield Finding("gpu", "ok", f"alone, driver {state.get('driver', 'unknown')}")


def clock(root: Path = Path("/sys/devices/system/cpu")) -> Iterator[Finding]:
    """Whether the processor keeps its clock rate while something is timed."""
    names = {_read(path) for path in root.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    governors = sorted(names - {""})
    if not governors:
        yield Finding("governor", "ok", "not reported by the system, as in most virtual machines")
    elif governors == ["performance"]:
        yield Finding("governor", "ok", "performance")
    else:
        do = "sudo cpupower frequency-set -g performance, while you time on the CPU"
        yield Finding("governor", "note", ", ".join(governors), do)
    boost = _read(root / "cpufreq" / "boost")
    no_turbo = _read(root / "intel_pstate" / "no_turbo")
    if boost == "1" or no_turbo == "0":
        found = "on: the clock depends on heat and on how many cores work"
        yield Finding("turbo", "note", found, "nothing, unless you time on the CPU")
    elif boost or no_turbo:
        yield Finding("turbo", "ok", "off")


def load() -> Finding:
    """Whether other programs compute on this machine."""
    cores, busy = usable_cores(), os.getloadavg()[0]
    found = f"{busy:.1f} on {cores} core{'s' * (cores != 1)}"
    if busy > cores / 2:
        return Finding("load", "note", found, "wait for it before you time anything on the CPU")
    return Finding("load", "ok", found)


def threads() -> Finding:
    """Whether there are no more threads than cores, and whether idle ones sleep."""
    cores, asked = usable_cores(), os.environ.get("OMP_NUM_THREADS", "")
    waits = os.environ.get("OMP_WAIT_POLICY", "").upper()
    if asked.isdecimal() and int(asked) > cores:
        found = f"OMP_NUM_THREADS={asked} on {cores} cores"
        return Finding("threads", "problem", found, f"export OMP_NUM_THREADS={cores}")
    if waits == "ACTIVE":
        found = "OMP_WAIT_POLICY=ACTIVE: idle threads spin and slow down whatever else runs"
        return Finding("threads", "note", found, "unset OMP_WAIT_POLICY")
    setting = f"OMP_NUM_THREADS={asked}" if asked else "as torch chooses"
    return Finding("threads", "ok", f"{setting}, on {cores} cores")


def hub_access() -> Finding:
    """Whether the hub is reached, and with a token or not; the token itself is never shown."""
    from huggingface_hub import get_token

    token = get_token() is not None
    access = "with a token" if token else "without a token"
    if hub.offline():
        return Finding("hub", "note", f"offline, {access}", "unset HF_HUB_OFFLINE to download")
    do = "" if token else "'hf auth login' for gated models"
    return Finding("hub", "ok", f"online, {access}", do)


def bos(model: str) -> Finding:
    """Whether a model's tokenizer adds a BOS token, which changes perplexity; loads no weights."""
    import transformers

    folder = hub.folder_of(model)
    hub.require(model, None, weights=False)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder or model), trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        found = f"no tokenizer of {model}: {reason}"
        return Finding("bos", "problem", found, "put the tokenizer's files next to the weights")
    own = tokenizer.bos_token_id
    asked = "; ".join(f"{word}: {', '.join(names)}" for word, names in protocol_bos().items())
    if own is None:
        do = f"no perplexity with bos: stream or window ({asked})"
        return Finding("bos", "note", f"{model} has none", do)
    name = tokenizer.bos_token
    if tokenizer("a", add_special_tokens=True)["input_ids"][:1] == [own]:
        return Finding("bos", "ok", f"{model} adds {name!r} before a text", f"protocols: {asked}")
    found = f"{model} has {name!r} and does not add it, so bos: tokenizer is without it"
    return Finding("bos", "note", found, f"compare only numbers with the same bos: {asked}")


def protocol_bos() -> dict[str, list[str]]:
    """The protocols by the value of their perplexity's ``bos`` option."""
    words: dict[str, list[str]] = {}
    for path in sorted(loader.PROTOCOLS.glob("*.yaml")):
        for metric in Source(path).data.get("metrics", ()):
            if metric["name"] == "perplexity":
                names = words.setdefault(metric.get("bos", "tokenizer"), [])
                names += [path.stem] * (path.stem not in names)
    return words


def deterministic(device: str) -> Finding:
    """Whether two loads of the shipped model give bit-identical logits."""
    import torch

    from ..models.loading import load_model
    from ..reference import MODEL_ID

    ids = torch.arange(8, 8 + 2 * 64).view(2, 64)
    found = []
    for _ in range(2):
        lm = load_model(MODEL_ID, dtype="float32", device=device)
        with torch.inference_mode():
            found.append(lm.hf(ids.to(lm.device)).logits.cpu())
    if torch.equal(*found):
        return Finding("repeatable", "ok", f"two forwards on {device} agree bit for bit")
    apart = (found[0] - found[1]).abs().max().item()
    do = "numbers here are equal to tolerance only; on a GPU set CUBLAS_WORKSPACE_CONFIG=:4096:8"
    return Finding("repeatable", "problem", f"two forwards differ by {apart:.1e}", do)


def examine(
    store: Path, baselines: Path, device: str, models: tuple[str, ...] = ()
) -> Iterator[Finding]:
    """Every check, in order; an error in one is a finding and stops no other."""
    checks: dict[str, Callable[[], Finding | Iterator[Finding]]] = {
        "libraries": libraries,
        "space": lambda: space(store),
        "store": lambda: writable(store),
        "records": lambda: cache(store, baselines),
        "hub": hub_access,
        "load": load,
        "threads": threads,
        "governor": clock,
        # The gpu check needs this process on the GPU, which this check does.
        "repeatable": lambda: deterministic(device),
        "gpu": lambda: gpu(device),
    }
    for name, check in checks.items():
        yield from _guarded(name, check)
    for model in models:
        yield from _guarded("bos", partial(bos, model))


def _guarded(name: str, check: Callable[[], Finding | Iterator[Finding]]) -> Iterator[Finding]:
    try:
        found = check()
        yield from [found] if isinstance(found, Finding) else found
    except PrunebenchError as error:
        yield Finding(name, "problem", str(error).splitlines()[0])
    except Exception as error:  # a system may lack what a check asks for
        text = (str(error).splitlines() or [""])[0]
        yield Finding(name, "note", f"could not be checked: {type(error).__name__}: {text}")


def _fits(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)


def _existing(path: Path) -> Path:
    """*path*, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
