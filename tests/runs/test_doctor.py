"""Each check of `doctor`, on machines that are made up."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from factories import accuracy, record

from prunebench import PrunebenchError, reference
from prunebench.results.store import Store
from prunebench.runs import doctor
from prunebench.system.nvml import Gpu


def states(findings) -> list[str]:
    return [f"{f.check} {f.state}" for f in findings]


def test_versions_are_held_against_what_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """In range, too old, absent; what an extra asks for is not asked for."""
    have = {"torch": "2.5.1", "numpy": "2.1"}

    def version(name: str) -> str:
        if name not in have:
            raise doctor.metadata.PackageNotFoundError(name)
        return have[name]

    wanted = ["torch>=2.6", "numpy>=1.26", "typer>=0.15", "nox>=1; extra == 'dev'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(doctor.metadata, "version", version)
    found = list(doctor.libraries())
    assert [f.found for f in found] == ["torch 2.5.1, needs >=2.6", "typer absent, needs >=0.15"]
    assert found[0].what_to_do == "pip install 'torch>=2.6'"
    have.update(torch="2.6.0+cu130", typer="0.16")
    assert states(doctor.libraries()) == ["libraries ok"]


@pytest.mark.parametrize(
    ("free", "state"), [(500, ["ok", "ok"]), (5, ["ok", "note"]), (0.05, ["problem", "problem"])]
)
def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, state) -> None:
    """Enough, little, none; also of a folder that is yet to be made."""
    asked = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=free * doctor.GB)

    monkeypatch.setattr(doctor.shutil, "disk_usage", usage)
    found = list(doctor.space(tmp_path / "not" / "there"))

    assert [f.state for f in found] == state
    assert asked[0] == tmp_path


def test_a_store_that_cannot_be_written_or_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine; no flock; another clock; a file in the way. Nothing is left there."""
    assert doctor.writable(tmp_path).state == "ok"

    def unsupported(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", unsupported)
        assert "not locked" in doctor.writable(tmp_path).found
    with monkeypatch.context() as patch:
        patch.setattr(doctor.time, "time", lambda: 0.0)
        assert "s off this machine's" in doctor.writable(tmp_path).found
    assert list(tmp_path.iterdir()) == []

    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryDirectory", refused)
    found = doctor.writable(tmp_path)
    assert (found.state, found.found.endswith("Permission denied")) == ("problem", True)


def test_a_damaged_record_is_a_problem(tmp_path: Path) -> None:
    """With its name, and the command that names all."""
    store = Store(tmp_path / "store")
    path = store.save(record(accuracy(90), key="k" * 64))
    assert states(doctor.cache(store.root, tmp_path / "baselines"))[0] == "records ok"
    path.write_text("{")
    found = next(doctor.cache(store.root, tmp_path / "baselines"))

    assert found.state == "problem"
    assert str(path) in found.found


class Card:
    """NVML with one card; numbers as the library gives them."""

    def __init__(self, pids=(), reasons=0, cap=700_000) -> None:
        self._pids, self._reasons, self._cap = pids, reasons, cap

    def nvmlDeviceGetComputeRunningProcesses(self, _):  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self._pids]

    def nvmlDeviceGetCurrentClocksEventReasons(self, _):  # noqa: N802
        return self._reasons

    def nvmlDeviceGetEnforcedPowerLimit(self, _):  # noqa: N802
        return self._cap

    def nvmlDeviceGetPowerManagementDefaultLimit(self, _):  # noqa: N802
        return 700_000

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "580.1"


@pytest.mark.parametrize(
    ("card", "found"),
    [
        (Card([os.getpid()]), ["gpu ok"]),
        (Card([os.getpid(), 7]), ["gpu problem"]),
        (Card(reasons=0x40), ["gpu problem"]),
        (Card(cap=500_000), ["gpu note", "gpu ok"]),
        (None, ["gpu note"]),
    ],
)
def test_gpu(card: Card | None, found: list[str]) -> None:
    """Alone, shared, too hot, capped, unknown; and no GPU at all."""
    gpu = Gpu(card, 0) if card else None

    assert states(doctor.gpu("cuda", lambda _: gpu)) == found
    assert states(doctor.gpu("cpu")) == ["gpu ok"]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, ["governor ok"]),
        ({"cpu0/cpufreq/scaling_governor": "performance"}, ["governor ok"]),
        (
            {
                "cpu0/cpufreq/scaling_governor": "performance",
                "cpu1/cpufreq/scaling_governor": "powersave",
                "intel_pstate/no_turbo": "0",
            },
            ["governor note", "turbo note"],
        ),
        (
            {"cpu0/cpufreq/scaling_governor": "performance", "cpufreq/boost": "0"},
            ["governor ok", "turbo ok"],
        ),
    ],
)
def test_clock(tmp_path: Path, files: dict[str, str], found: list[str]) -> None:
    """Trees as Linux shows them under /sys/devices/system/cpu."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    assert states(doctor.clock(tmp_path)) == found


def test_a_system_without_a_load_average_has_every_other_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Windows has none; the command line imports this module whatever it is asked."""
    monkeypatch.delattr(os, "getloadavg")
    spec = importlib.util.spec_from_file_location("prunebench.runs._elsewhere", doctor.__file__)
    assert spec is not None
    assert spec.loader is not None
    there = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(there)
    (found,) = there._guarded("load", there.load)

    assert (found.check, found.state) == ("load", "note")
    assert found.found.startswith("could not be checked: AttributeError")


def test_load_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy or not; more threads than cores; threads that spin."""
    monkeypatch.setattr(doctor, "usable_cores", lambda: 4)
    for average, state in (((0.5, 9.0, 9.0), "ok"), ((3.0, 0.0, 0.0), "note")):
        monkeypatch.setattr(os, "getloadavg", lambda average=average: average)
        assert doctor.load().state == state

    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for asked, state in (("4", "ok"), ("5", "problem"), ("", "ok"), ("many", "ok")):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert doctor.threads().state == state, asked
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert doctor.threads().state == "note"


def test_a_token_is_told_of_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a variable or the client's file."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert doctor.hub_access().found == "online, without a token"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = doctor.hub_access()
    assert (found.found, "secret" in str(found)) == ("online, with a token", False)
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text("hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert doctor.hub_access().found == "offline, with a token"


def test_bos(tmp_path: Path, letters) -> None:
    """A tokenizer that puts one, ours that does not, none at all; and what protocols ask for."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(reference.MODEL / "config.json", folder)
    assert doctor.bos(str(folder)).state == "problem"
    letters.save_pretrained(folder)
    assert doctor.bos(str(folder)).found == f"{folder} adds '<s>' before a text"

    assert doctor.bos(reference.MODEL_ID).state == "note"
    words = doctor.protocol_bos()
    assert "slicegpt@1" in words["tokenizer"]
    assert {"shortened-llama@1", "prunebench@1"} <= set(words["window"])
    with pytest.raises(PrunebenchError, match="no such model folder"):
        doctor.bos("./nowhere")


def test_two_forwards_agree_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model does; one that is drawn anew each time does not."""
    import torch

    from prunebench.models import loading

    assert doctor.deterministic("cpu").state == "ok"
    real = loading.load_model

    def noisy(*given: object, **options: object):
        lm = real(*given, **options)  # type: ignore[arg-type]
        with torch.no_grad():
            next(iter(lm.hf.parameters())).add_(torch.rand(()) + 0.1)
        return lm

    monkeypatch.setattr(loading, "load_model", noisy)
    assert doctor.deterministic("cpu").state == "problem"


def test_a_check_that_fails_itself_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and the rest is done."""

    def broken() -> None:
        raise OSError("no such thing here")

    monkeypatch.setattr(doctor, "load", broken)
    found = {f.check: f for f in doctor.examine(tmp_path, tmp_path, "cpu", ("./nowhere",))}

    assert found["load"].found == "could not be checked: OSError: no such thing here"
    assert found["threads"].check == "threads"
    assert found["bos"].state == "problem"


def test_the_command(project: Path, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines or JSON; 3 if there is a problem, 2 for a device that is not."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code, out, _ = cli("doctor")
    assert code == 0, out
    assert "ok       repeatable: two forwards on cpu agree bit for bit" in out
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    code, out, _ = cli("doctor", "--json")
    assert code == 3
    assert [f["check"] for f in json.loads(out) if f["state"] == "problem"] == ["threads"]
    code, out, err = cli("doctor", "--device", "abacus")
    assert (code, out) == (2, "")
    assert err.startswith("--device abacus: ")
