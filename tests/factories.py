"""What several tests build: records, baselines, cases, tiny models; no test imports another."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from prunebench import DropBlocks, Measurement, Plan, Record, Step
from prunebench.case import Case
from prunebench.edits.slice_hidden import SliceHidden
from prunebench.record import Environment
from prunebench.runs.result import Result
from prunebench.verdicts.verdict import Finding, Outcome, Verdict

if TYPE_CHECKING:
    from prunebench import CausalLM

#: The checkout.
ROOT = Path(__file__).resolve().parents[1]


FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "opt")


def oracle_of(shared: Path, name: str, ids: str) -> dict[str, Any]:
    """A file of the authors' outputs, with the model and the token ids they were made with."""
    import prunebench

    folder = shared / "oracles"
    model = prunebench.load_model(folder / "model-a")
    return {**read(folder / f"{name}.json"), "lm": model, "ids": read(folder / f"{ids}.json")}


def tiny_config(family: str, blocks: int = 6) -> Any:
    """A config of a few thousand parameters, with grouped-query attention where there is any."""
    import transformers

    common = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": blocks}
    if family == "opt":
        return transformers.OPTConfig(
            **common,
            ffn_dim=48,
            num_attention_heads=4,
            word_embed_proj_dim=16,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            dropout=0.0,
        )
    common |= {
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    extra: dict[str, dict[str, Any]] = {
        "llama": {"tie_word_embeddings": True},
        "mistral": {"sliding_window": 8},
        "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3},
    }
    names = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config"}
    names |= {"qwen3": "Qwen3Config", "gemma": "GemmaConfig"}
    return getattr(transformers, names[family])(**common, **extra.get(family, {}))


SMALL_CASE = """\
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 8, seqlen: 128}
metrics:
  - {name: perplexity, dataset: tinyworld, seqlen: 128, nsamples: 24}
  - {name: accuracy, tasks: [tinyworld_facts, tinyworld_recall], limit: 40}
matrix:
  method: [{name: sleb, calibration_unit: windows}]
  blocks: [2]
"""


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


CPU = Environment("cpu", "3.11", "Linux", 2, {})


def record(*measurements: Measurement, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "case_id": "a/b",
        "asked": {"method": {"name": "sleb"}, "amount": {"blocks": 2}},
        "plan": (DropBlocks((5, 3)),),
        "trace": (
            Step(0, {"3": 1.1, "5": 1.0}, "5", margin=0.1, noise=1e-6),
            Step(1, {"3": 1.2, "4": 1.4}, "3", margin=0.2, noise=1e-6),
        ),
        "parameters": 80,
        "dense_parameters": 100,
        "measurements": measurements,
        "cost": {},
        "environment": CPU,
        "model_hash": "x",
        "created": "2026-11-22T00:00:00+00:00",
    }
    return Record(**{**fields, **changes})


def accuracy(right: int, of: int = 100) -> Measurement:
    samples = tuple(float(i < right) for i in range(of))
    return Measurement("accuracy/t", right / of, "acc", "higher", samples, paired=True)


GPU = replace(CPU, device="nvidia-h200")


CASES = """\
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 8, seqlen: 128}
metrics:
  - {name: perplexity, dataset: tinyworld, seqlen: 128}
  - {name: accuracy, tasks: [tinyworld_facts, tinyworld_recall]}
tolerance: {perplexity: {rel: 0.005}, accuracy: {abs: 0.01}}
include:
  - method: {name: dense}
  - {method: {name: sleb}, blocks: 1}
  - {method: {name: sleb}, blocks: 2}
  - {method: {name: sleb}, blocks: 3}
  - {method: {name: first}, blocks: 1}
"""


def answer(
    case: Case, ppl: float | None = 2.4, facts: float = 0.9, recall: float = 0.8, **changes: Any
) -> Record:
    """A record that answers *case*, with numbers as wanted."""
    tasks = answers("tinyworld_facts", facts), answers("tinyworld_recall", recall)
    both = tasks[0].samples + tasks[1].samples
    mean = Measurement("accuracy/mean", sum(both) / len(both), "acc", "higher", both, paired=True)
    fields = {
        "case_id": case.id,
        "asked": case.asked,
        "plan": () if case.dense else (DropBlocks((5, 3)),),
        "trace": (),
        "key": hashlib.sha256(f"{case.id}{ppl}{facts}{recall}{changes}".encode()).hexdigest(),
    }
    return record(perplexity(ppl), *tasks, mean, **{**fields, **changes})


def speedup(value: float) -> Measurement:
    samples = tuple(value + i / 1000 for i in range(20))
    return Measurement("latency/p/speedup-decode", value, "x", "higher", samples)


def board_case(
    name: str,
    *measurements: Measurement,
    gone: int = 20,
    asked: dict[str, Any] | None = None,
    **more: Any,
) -> Record:
    question = {
        "protocol": "p@1",
        "model": {"id": "m"},
        "method": {"name": name},
        "amount": {"sparsity": gone / 100} if gone else {},
        "calibration": None,
        "metrics": [QUESTIONS],
        **(asked or {}),
    }
    fields = {"case_id": f"c/{name}-{gone}", "plan": (DropBlocks(tuple(range(gone // 10))),)}
    return record(
        *measurements,
        **{**fields, "asked": question, "trace": (), "parameters": 100 - gone, **more},
    )


def slicing(lm: CausalLM, kept: int, scope: str) -> Plan:
    """A random rotation of every stage, cut to *kept*."""
    from prunebench.models.rotation import STAGE
    from prunebench.models.tensors import Tensors

    count = 1 if scope == "global" else 2 * len(lm.blocks)
    hidden = lm.hf.config.hidden_size
    tensors = Tensors()
    sha256 = tensors.add({STAGE.format(i): rotation(hidden, kept, i) for i in range(count)})
    return Plan((SliceHidden((kept,) * count, "exact", scope, sha256),), tensors=tensors)


def published_record(value: float | None = 12.3, **changes: Any) -> Record:
    asked = {
        "protocol": "sleb@1",
        "model": {"id": "NousResearch/Llama-2-7b-hf"},
        "method": {"name": "sleb"},
        "amount": {"blocks": 7},
        "calibration": {},
        "metrics": [],
    }
    fields: dict[str, Any] = {
        "case_id": "mine/sleb-7blocks",
        "asked": asked | changes,
        "plan": (DropBlocks((5,)),),
        "trace": (),
        "parameters": 80,
        "dense_parameters": 100,
        "measurements": (
            Measurement("perplexity/c4", value, "ppl", "lower"),
            Measurement("perplexity/wikitext2", 9.2, "ppl", "lower"),
        ),
        "cost": {},
        "environment": Environment("cpu", "3.11", "Linux", 2, {}),
        "model_hash": "x",
        "created": "2026-11-24T00:00:00+00:00",
    }
    return Record(**fields)


def result(case: Case, outcome: str, gone: int = 20, **changes: Any) -> Result:
    """A case with a finding of that outcome, as if its baseline had been a little better."""
    if outcome == "crashed":
        return Result(case, Verdict(case.id, ok=False, error="out of memory"))
    if outcome == "skipped":
        return Result(case, Verdict(case.id, ok=True, skipped="needs a GPU"))
    now = measured(gone, **changes)
    was = {"now": 2.5, "was": 2.25} if outcome in ("worse", "unsure") else {"now": 2.5, "was": 2.5}
    findings = (Finding("perplexity/t", Outcome(outcome), **was, p=0.25),)
    ok = outcome not in ("worse", "gone", "changed_plan")
    return Result(case, Verdict(case.id, ok, findings), now)


#: Questions of each task that ``answers`` makes.
ANSWERED = 400


def answers(task: str, right: float, chance: float | None = 0.25) -> Measurement:
    count = round(right * ANSWERED)
    samples = tuple(float(i < count) for i in range(ANSWERED))
    name = f"accuracy/{task}"
    return Measurement(name, count / ANSWERED, "acc", "higher", samples, paired=True, chance=chance)


def perplexity(value: float | None, windows: int = 50) -> Measurement:
    # Windows differ, and none by the same amount, so that ranks are ranks.
    spread = [math.sin(i) / 50 for i in range(windows)]
    middle = math.log(value or 1.0) - sum(spread) / windows
    losses = tuple(middle + s for s in spread) if value is not None else ()
    name = "perplexity/tinyworld"
    return Measurement(name, value, "ppl", "lower", losses, paired=bool(losses))


QUESTIONS = {"name": "accuracy", "tasks": ["t"]}


def rotation(hidden: int, kept: int, seed: int) -> Any:
    """Random orthonormal columns, float64; cut ones leave the mean of a state alone."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(hidden, hidden, generator=generator, dtype=torch.float64)
    if kept < hidden:  # as principal axes of states without a mean would
        square -= square.mean(0)
    return torch.linalg.qr(square)[0][:, :kept]


def measured(gone: int, ppl: float = 2.5, right: int = 90) -> Record:
    """A record of so much sparsity in per cent, with samples."""
    nats = tuple(math.log(ppl) + 0.1 * (-1) ** i for i in range(100))
    answers = tuple(float(i < right) for i in range(100))
    speedups = (1.1, 1.2, 1.3)
    return record(
        Measurement("perplexity/t", ppl, "ppl", "lower", nats, paired=True),
        Measurement("accuracy/mean", right / 100, "acc", "higher", answers, paired=True),
        Measurement("accuracy/recovery", right / 100, "of dense", "higher"),
        Measurement("generation/t", 0.5, "match", "higher"),
        Measurement("latency/hf-eager-1x8+8/speedup-prefill", 1.2, "x", "higher", speedups),
        Measurement("latency/hf-eager-1x8+8/speedup-decode", 1.2, "x", "higher", speedups),
        Measurement("memory/weights", 5.0, "MiB", "lower"),
        parameters=100 - gone,
        cost={"search_time": 12.3},
    )


EIGHT_CASES = """\
model: {id: prunebench/reference, dtype: float32}
protocol: tinyworld@1
matrix:
  method: [{name: sleb}, {name: shortened_llama, criterion: ppl}, {name: slicegpt}]
  sparsity: [0.15, 0.3]
include:
  - {method: {name: dense}}
  - {method: {name: sliding_layer_merging}, sparsity: 0.3, calibration: {nsamples: 10}}
"""


FIRST, SECOND = "1" * 40, "2" * 40


class HubCache:
    """A folder like ~/.cache/huggingface/hub: blobs by hash, snapshots of links, refs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self, model_id: str, files: Path, commit: str = FIRST, refs: tuple[str, ...] = ("main",)
    ) -> Path:
        """Put the files of a folder there as one commit; returns the snapshot."""
        repository = self.root / f"models--{model_id.replace('/', '--')}"
        snapshot = repository / "snapshots" / commit
        for folder in (snapshot, repository / "blobs", repository / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        for ref in refs:
            (repository / "refs" / ref).write_text(commit)
        for file in files.iterdir():
            blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            shutil.copy(file, blob)
            (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
        return snapshot


def p_paired(worse_by: list[float]) -> float:
    """One-sided p-value that paired differences are not above zero, directly from SciPy.

    The sign test, which is McNemar's, for differences of one size; else Wilcoxon's signed ranks.
    """
    from scipy import stats

    moved = [d for d in worse_by if d != 0]
    if not moved:
        return 1.0
    if len({abs(d) for d in moved}) == 1:
        ups = sum(d > 0 for d in moved)
        return float(stats.binomtest(ups, len(moved), alternative="greater").pvalue)
    return float(stats.wilcoxon(moved, alternative="greater").pvalue)


def flops_of(
    shape: Any, windows: int, length: int, attn: int | None = None, mlp: int | None = None
) -> int:
    """Operations of one forward in closed form, with so many attentions and MLPs; default all.

    A multiplication and an addition count two; attention is counted over all pairs of tokens,
    masked ones too, as it is computed. Norms, activations and softmax are left out.
    """
    attn = shape.blocks if attn is None else attn
    mlp = shape.blocks if mlp is None else mlp
    matrices = attn * shape.attn_mul + mlp * shape.mlp_mul + shape.head
    pairs = windows * length**2
    return 2 * windows * length * matrices + attn * 4 * pairs * shape.heads * shape.head_dim
