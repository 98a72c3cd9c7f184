"""Hub ids: the cache as the hub lays it out, and a hub of our own on this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import FIRST, SECOND, HubCache

from prunebench import CausalLM, PrunebenchError, load_model
from prunebench.data import fingerprints, hub
from prunebench.errors import PrunebenchWarning
from prunebench.specs import ModelSpec


@pytest.fixture
def saved(tiny: Callable[..., CausalLM], tmp_path: Path) -> Path:
    """A tiny model as a folder of plain files."""
    tiny("llama").hf.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def changed(folder: Path, to: Path) -> Path:
    """A copy of a model whose final norm is doubled."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    weights = load_file(to / hub.WEIGHTS)
    weights["model.norm.weight"] = weights["model.norm.weight"] * 2
    save_file(weights, to / hub.WEIGHTS, metadata={"format": "pt"})
    return to


def norm_of(lm: CausalLM) -> torch.Tensor:
    return lm.hf.get_submodule("model.norm").weight


def refusal(*arguments: Any, **options: Any) -> str:
    """The one line that loading ends with."""
    with pytest.raises(PrunebenchError) as caught:
        load_model(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_revision_is_its_own_weights_and_hash(
    hub_cache: HubCache, saved: Path, tmp_path: Path, ids
) -> None:
    """Default, branch and commit load the snapshot they name, and the hash tells them apart."""
    hub_cache.add("org/tiny", saved, FIRST, ("main",))
    hub_cache.add("org/tiny", changed(saved, tmp_path / "other"), SECOND, ("v2",))
    local = load_model(saved)
    by_revision = {r: load_model("org/tiny", revision=r) for r in (None, FIRST, "v2", SECOND)}
    hashes = {r: fingerprints.model_hash(ModelSpec("org/tiny", r)) for r in by_revision}

    assert torch.equal(by_revision[None].window_nll(ids), local.window_nll(ids))
    for revision, times in {None: 1, FIRST: 1, "v2": 2, SECOND: 2}.items():
        assert torch.equal(norm_of(by_revision[revision]), times * norm_of(local))
    assert hashes[None] == hashes[FIRST] != hashes["v2"] == hashes[SECOND]


def test_a_revision_that_is_not_there_is_one_line(hub_cache: HubCache, saved: Path) -> None:
    """Model, revision, what there is, and why nothing is downloaded."""
    hub_cache.add("org/tiny", saved)
    line = refusal("org/tiny", revision="v9")

    assert line.startswith("model 'org/tiny' at revision 'v9' is not in the hub cache")
    assert "revisions main, 1111" in line
    assert "HF_HUB_OFFLINE=1 is set" in line
    assert fingerprints.model_hash(ModelSpec("org/tiny", "v9")) is None
    assert "is not in the hub cache" in refusal("org/absent")
    assert "nor a hub id" in refusal("one/two/three")
    assert "is a folder and has no revisions" in refusal(saved, revision="main")


def test_remote_code_is_never_run(hub_cache: HubCache, saved: Path, tmp_path: Path) -> None:
    """A repository with auto_map and a Python file: refused, or loaded as the plain class."""
    mark = tmp_path / "executed"
    config = json.loads((saved / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (saved / "code.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (saved / "config.json").write_text(json.dumps(config))
    hub_cache.add("org/plain", saved)
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "strange"}))
    hub_cache.add("org/strange", saved)

    for name in ("org/strange", saved):
        assert "code of its own (auto_map in its config.json)" in refusal(name)
    with pytest.warns(PrunebenchWarning, match="is loaded as transformers' LlamaForCausalLM"):
        load_model("org/plain")
    assert not mark.exists()


def test_pickles_and_missing_files_are_named(
    hub_cache: HubCache, saved: Path, tiny, tmp_path: Path
) -> None:
    """Pickled weights only, no weights, a missing shard, a damaged index: a line each."""
    (saved / hub.WEIGHTS).unlink()
    hub_cache.add("org/none", saved)
    assert "has no weights (model.safetensors or model.safe" in refusal("org/none")
    torch.save(tiny("llama").hf.state_dict(), saved / "pytorch_model.bin")
    hub_cache.add("org/pickled", saved)
    for name in ("org/pickled", saved):
        assert "has pickled weights only (pytorch_model.bin)" in refusal(name)

    shards = tmp_path / "shards"
    tiny("llama").hf.save_pretrained(shards, max_shard_size="40KB")
    count = len(list(shards.glob("model-*.safetensors")))
    (lost := sorted(shards.glob("model-*.safetensors"))[1]).unlink()
    hub_cache.add("org/lost", shards)
    assert f"lacks 1 of its {count} weight files: {lost.name}" in refusal("org/lost")
    (shards / hub.INDEX).write_text("{}")
    assert "is damaged: expected JSON with a 'weight_map'" in refusal(shards)


def test_weights_that_lack_a_tensor_are_refused(saved: Path) -> None:
    """Transformers would draw the missing tensor at random and say nothing."""
    from safetensors.torch import load_file, save_file

    weights = load_file(saved / hub.WEIGHTS)
    name = "model.layers.2.mlp.up_proj.weight"
    extra = {"model.layers.2.attn_shortcut": torch.eye(32)}
    save_file({**weights, **extra}, saved / hub.WEIGHTS, metadata={"format": "pt"})
    with pytest.warns(PrunebenchWarning, match="has 1 tensors .* left out: .*attn_shortcut"):
        load_model(saved)
    del weights[name]
    save_file(weights, saved / hub.WEIGHTS, metadata={"format": "pt"})

    assert f"its weights lack 1 tensors that LlamaForCausalLM has: {name}" in refusal(saved)


def test_a_sharded_snapshot_is_known_by_its_blobs(
    hub_cache: HubCache, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids
) -> None:
    """The hash stays when the cache is moved, and is another when one blob is."""
    from huggingface_hub import constants

    lm = tiny("llama")
    lm.hf.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    snapshot = hub_cache.add("org/tiny", tmp_path / "shards")
    assert torch.equal(load_model("org/tiny").window_nll(ids), lm.window_nll(ids))
    before = fingerprints.model_hash(ModelSpec("org/tiny"))
    moved = tmp_path / "elsewhere"
    shutil.move(hub_cache.root, moved)
    assert fingerprints.model_hash(ModelSpec("org/tiny")) is None
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(moved))
    assert fingerprints.model_hash(ModelSpec("org/tiny")) == before

    there = moved / snapshot.relative_to(hub_cache.root)
    link = sorted(there.glob("model-*.safetensors"))[1]
    other = link.resolve().with_name("f" * 64)
    other.write_bytes(link.read_bytes())
    link.unlink()
    link.symlink_to(Path("../../blobs") / other.name)
    assert fingerprints.model_hash(ModelSpec("org/tiny")) != before


def test_without_a_tokenizer_ids_are_scored_and_text_is_refused(
    hub_cache: HubCache, saved: Path, ids
) -> None:
    """No tokenizer files: fine; a broken one: said at once."""
    from prunebench.models.calibration import evaluation_windows

    hub_cache.add("org/tiny", saved)
    lm = load_model("org/tiny")

    assert lm.tokenizer is None
    assert torch.isfinite(lm.window_nll(ids)).all()
    with pytest.raises(PrunebenchError, match="has no tokenizer; give token ids"):
        evaluation_windows("tinyworld", lm, 16, None)
    (saved / "tokenizer.json").write_text("{}")
    with pytest.warns(PrunebenchWarning, match="tokenizer of model .* cannot be loaded"):
        load_model(saved)


def test_a_case_of_an_absent_model_is_one_line(project: Path, cli, hub_cache: HubCache) -> None:
    """In a run the case crashes (3), for `prune` it is a mistake in the arguments (2)."""
    code, out, err = cli("run", "cases", "--set", "model.id=org/absent", "-q")
    assert (code, "model 'org/absent' is not in the hub cache" in out) == (3, True)
    code, _, err = cli("prune", "org/absent", "--method", "middle", "--blocks", "1")
    assert (code, "model 'org/absent' is not in the hub cache" in err) == (2, True)
    assert "Traceback" not in out + err


# ------------------------------------------------------------------------------ a hub of our own


class FakeHub(BaseHTTPRequestHandler):
    """Serves ``<folder>/<organisation>/<name>`` the way the hub serves one commit of a model."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.asked.append(self.path)
        parts = self.path.partition("?")[0].strip("/").split("/")
        model = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        revision = parts[-1] if parts[0] == "api" else parts[3]
        if model == "org/gated":
            self.reply(403, {"X-Error-Code": "GatedRepo"})
        elif not (self.folder / model).is_dir():
            self.reply(404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", FIRST):
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        elif parts[0] == "api":
            self.reply(200, {}, json.dumps({"id": model, "sha": FIRST, "siblings": []}).encode())
        elif not (file := self.folder / model / parts[-1]).is_file():
            self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": FIRST})
        else:
            data = file.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            self.reply(200, {"X-Repo-Commit": FIRST, "ETag": etag}, data)

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def fake_hub(
    hub_cache: HubCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[FakeHub]]:
    """The hub client, online, is pointed at a server on this machine."""
    import transformers.utils.hub
    from huggingface_hub import close_session, constants

    class Hub(FakeHub):
        folder = tmp_path / "repositories"
        asked: list[str] = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    url = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    close_session()
    yield Hub
    close_session()
    server.shutdown()
    server.server_close()


def test_a_model_is_downloaded_once(fake_hub: type[FakeHub], saved: Path, ids) -> None:
    """Its files land in the cache, and then a revision that is a commit is read from there."""
    (fake_hub.folder / "org").mkdir(parents=True)
    shutil.copytree(saved, fake_hub.folder / "org" / "tiny")
    assert hub.place("org/tiny") == ("hub", None)
    lm = load_model("org/tiny")

    assert torch.equal(lm.window_nll(ids), load_model(saved).window_nll(ids))
    assert hub.place("org/tiny").kind == "hub cache"
    assert hub.place("org/tiny", FIRST) == hub.place("org/tiny")
    assert not [path for path in fake_hub.asked if path.endswith(".bin")]
    before = len(fake_hub.asked)
    load_model("org/tiny", revision=FIRST)
    again = [p for p in fake_hub.asked[before:] if p.endswith((".safetensors", "/config.json"))]
    assert not again


def test_what_the_hub_refuses_is_one_line(fake_hub: type[FakeHub], saved: Path) -> None:
    """Gated, absent, no such revision, pickled weights only."""
    (saved / hub.WEIGHTS).rename(saved / "pytorch_model.bin")
    (fake_hub.folder / "org").mkdir(parents=True)
    shutil.copytree(saved, fake_hub.folder / "org" / "pickled")

    assert "is gated: ask for access at https://huggingface.co/org/gated" in refusal("org/gated")
    assert "is not on the hub, or private" in refusal("org/absent")
    assert refusal("org/pickled", revision="v9") == (
        "model 'org/pickled' has no revision 'v9' on the hub"
    )
    assert "only safetensors are read" in refusal("org/pickled")
    assert not [path for path in fake_hub.asked if path.endswith(".bin")]
