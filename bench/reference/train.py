"""Trains the reference model from scratch: `python -m bench.reference.train --output DIR`.

A small model with few blocks finds out how to recall much sooner than a deep one, so the training
starts with three blocks and grows the model, twice as deep each time, without changing what it
computes. Later it splits the work of the busiest blocks over several. The text is generated
meanwhile: step k of the training always sees the same text, which is a function of the seed and k.
The run can stop at any time and the same command resumes, with bit-identical results for the same
number of threads. At the end the output folder's `model` holds the model in float16.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from . import build, scores, world
from .grow import carry_moments, deal, grow
from .lean import Lean, Objective
from .muon import Muon


@dataclass(frozen=True)
class Phase:
    """A stretch of the training at one depth."""

    blocks: int
    steps: int
    #: The learning rate after the warm-up.
    rate: float
    #: Over which last share of the phase the learning rate falls to zero.
    decay: float = 0.0
    #: How much more the answers of recall and order weigh in the loss than other words.
    emphasis: float = 1.0
    #: Into how many parts each block is dealt at the start, if it is.
    parts: tuple[int, ...] = ()


#: How the shipped weights were made.
PHASES = (
    Phase(blocks=3, steps=1250, rate=3e-3),
    Phase(blocks=6, steps=2000, rate=2.5e-3),
    Phase(blocks=12, steps=2000, rate=2e-3, emphasis=4),
    # Every other block had found little to do by then, so the work of the three that bear most is
    # dealt out over nine, and the three idlest blocks of the six stay next to them.
    Phase(
        blocks=12,
        steps=3000,
        rate=2e-3,
        decay=0.7,
        emphasis=10,
        parts=(2, 0, 1, 0, 4, 0, 1, 0, 3, 0, 1, 0),
    ),
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the training gives."""

    phases: tuple[Phase, ...] = PHASES
    width: int = 128
    heads: int = 4
    shared_heads: int = 2
    head_size: int = 32
    inner: int = 256
    batch: int = 32
    length: int = 128
    warmup: int = 100
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    #: The share of windows whose first word is the beginning-of-text word.
    bos: float = 0.1
    seed: int = 0
    bfloat16: bool = True
    compile: bool = True
    #: Every how many steps the model is scored, on how many questions of each task.
    every: int = 250
    questions: int = 126


def config(recipe: Recipe, blocks: int) -> LlamaConfig:
    """Describes the architecture at a depth."""
    return LlamaConfig(
        vocab_size=len(scores.word_ids()),
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=blocks,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.shared_heads,
        head_dim=recipe.head_size,
        max_position_embeddings=build.POSITIONS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=1,
    )


def initial(recipe: Recipe) -> LlamaForCausalLM:
    """Makes the model of the first phase with random weights."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(config(recipe, recipe.phases[0].blocks))


def text_windows(recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """Gives the windows of a step: pieces of a stream of documents that begin anywhere.

    Next to the ids, 1 for each word that follows from the story alone, and 0 for the others.
    """
    ids = scores.word_ids()
    rng = random.Random(f"windows {recipe.seed} {step}")
    size = recipe.length + 1
    skip = rng.randrange(100)
    needed = skip + recipe.batch * size
    stream: list[int] = []
    marks: list[int] = []
    # The count only has to be large enough: documents are generated as they are taken.
    for text, places in world.marked_documents("train", needed, recipe.seed * 10**9 + step):
        marks.extend(len(stream) + place for place in places)
        stream.extend(scores.encode_documents([text], ids))
        if len(stream) >= needed:
            break
    marked = torch.zeros(len(stream))
    marked[marks] = 1.0
    rows = torch.tensor(stream[skip:needed]).view(recipe.batch, size)
    for row in rows:
        if rng.random() < recipe.bos:
            row[0] = ids["<bos>"]
    return rows, marked[skip:needed].view(recipe.batch, size)


def rate_at(recipe: Recipe, phase: Phase, step: int) -> float:
    """Gives the learning rate of a step of a phase: warm-up, level, then straight to zero."""
    warm = min(1.0, (step + 1) / max(recipe.warmup, 1))
    left = (phase.steps - step) / max(phase.decay * phase.steps, 1e-9)
    return phase.rate * min(warm, left, 1.0)


def optimizers_for(model: LlamaForCausalLM, recipe: Recipe) -> tuple[Muon, torch.optim.AdamW]:
    """Makes the optimizers: Muon for the blocks' matrices, Adam for embeddings and norms."""
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        inner = name.startswith("model.layers.") and parameter.dim() > 1
        (matrices if inner else rest).append(parameter)
    adam = torch.optim.AdamW(rest, lr=0.0, betas=recipe.betas, weight_decay=0.0, fused=True)
    return Muon(matrices, lr=0.0, weight_decay=recipe.weight_decay), adam


@dataclass
class Run:
    """A training under way: the model, its optimizer and how far it is."""

    recipe: Recipe
    folder: Path
    model: LlamaForCausalLM
    optimizers: tuple[Muon, torch.optim.AdamW]
    phase: int = 0
    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Counts the steps of all phases so far."""
        return sum(phase.steps for phase in self.recipe.phases[: self.phase]) + self.step

    @property
    def done(self) -> bool:
        """Whether all phases are done."""
        return self.phase == len(self.recipe.phases)

    def moments(self) -> dict[str, dict[str, Any]]:
        """Gives the optimizer's state by parameter name."""
        state = {p: values for o in self.optimizers for p, values in o.state.items()}
        return {name: dict(state[p]) for name, p in self.model.named_parameters() if p in state}

    def restore_moments(self, moments: dict[str, dict[str, Any]]) -> None:
        """Takes over optimizer state by parameter name."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if names[parameter] in moments:
                        optimizer.state[parameter] = dict(moments[names[parameter]])


def _same_so_far(saved: dict[str, Any], wanted: dict[str, Any], phase: int) -> bool:
    """Whether a recipe can continue another one: only finished phases must agree."""
    behind = {**saved, "phases": saved["phases"][:phase]}
    return behind == {**wanted, "phases": wanted["phases"][:phase]}


def start(recipe: Recipe, folder: Path) -> Run:
    """Begins a training, or resumes the one whose state is in the folder."""
    path = folder / "state.pt"
    if not path.exists():
        model = initial(recipe)
        return Run(recipe, folder, model, optimizers_for(model, recipe))
    saved = torch.load(path, weights_only=False)
    if not _same_so_far(saved["recipe"], asdict(recipe), saved["phase"]):
        raise ValueError(f"{path} belongs to a training with other options")
    model = LlamaForCausalLM(config(recipe, saved["blocks"]))
    model.load_state_dict(saved["model"])
    run = Run(recipe, folder, model, optimizers_for(model, recipe))
    run.restore_moments(saved["moments"])
    run.phase, run.step = saved["phase"], saved["step"]
    run.seconds, run.curve = saved["seconds"], saved["curve"]
    return run


def save(run: Run) -> None:
    """Writes the state so that the training can resume from here."""
    run.folder.mkdir(parents=True, exist_ok=True)
    state = {
        "recipe": asdict(run.recipe),
        "blocks": run.model.config.num_hidden_layers,
        "model": run.model.state_dict(),
        "moments": run.moments(),
        "phase": run.phase,
        "step": run.step,
        "seconds": run.seconds,
        "curve": run.curve,
    }
    torch.save(state, run.folder / "state.tmp")
    (run.folder / "state.tmp").replace(run.folder / "state.pt")
    text = json.dumps({"recipe": asdict(run.recipe), "curve": run.curve}, indent=1)
    (run.folder / "curve.json").write_text(text + "\n", encoding="utf-8")


def enter_phase(run: Run) -> None:
    """Deepens the model, or splits its blocks, when the phase begins with that."""
    parts = run.recipe.phases[run.phase].parts
    if parts and run.step == 0:
        run.model = deal(run.model, parts)
        run.optimizers = optimizers_for(run.model, run.recipe)
    wanted = run.recipe.phases[run.phase].blocks
    blocks = int(run.model.config.num_hidden_layers or 0)
    if wanted == blocks:
        return
    moments = run.moments()
    run.model = grow(run.model, wanted)
    run.optimizers = optimizers_for(run.model, run.recipe)
    run.restore_moments(carry_moments(moments, run.model, blocks))


def steps(run: Run) -> Iterator[Tensor]:
    """Trains to the end of the phase and gives the loss of each step."""
    recipe, phase = run.recipe, run.recipe.phases[run.phase]
    objective: Any = Objective(Lean(run.model))
    if recipe.compile:
        objective = torch.compile(objective)
    parameters = list(run.model.parameters())
    while run.step < phase.steps:
        begun = time.perf_counter()
        for group in (group for o in run.optimizers for group in o.param_groups):
            group["lr"] = rate_at(recipe, phase, run.step)
        rows, marked = text_windows(recipe, run.total)
        weights = 1.0 + (phase.emphasis - 1.0) * marked[:, 1:]
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            loss = objective(rows, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        for optimizer in run.optimizers:
            optimizer.step()
        run.model.zero_grad()
        run.step += 1
        run.seconds += time.perf_counter() - begun
        yield loss.detach()


@dataclass(frozen=True)
class Monitor:
    """What the model is scored on while it trains: none of it is shipped test material."""

    text: Tensor
    questions: dict[str, list[world.Question]]

    @classmethod
    def prepare(cls, recipe: Recipe) -> Monitor:
        """Generates validation text and questions of another seed than the shipped ones."""
        documents = list(world.documents("validation", 200, build.SEED))
        stream = scores.encode_documents(documents, scores.word_ids())
        tasks = world.TASK_KINDS if recipe.questions else ()
        items = {task: list(world.questions(task, recipe.questions, 1)) for task in tasks}
        return cls(scores.windows(stream, recipe.length), items)

    def measure(self, run: Run) -> dict[str, Any]:
        """Scores the model as it is now."""
        lean = Lean(run.model)
        with torch.autocast("cpu", torch.bfloat16, enabled=run.recipe.bfloat16):
            return {
                "validation_loss": round(scores.mean_nll(lean, self.text), 4),
                "tasks": scores.report(lean, self.questions),
            }


def note(run: Run, monitor: Monitor, losses: list[Tensor], console: Console) -> None:
    """Adds a point to the curve and prints it."""
    point = {
        "blocks": run.model.config.num_hidden_layers,
        "steps": run.total,
        "tokens": run.total * run.recipe.batch * run.recipe.length,
        "minutes": round(run.seconds / 60, 2),
        "train_loss": round(float(torch.stack(losses).mean()), 4),
        **monitor.measure(run),
    }
    run.curve.append(point)
    tasks: dict[str, dict[str, float]] = point["tasks"]
    shown = "  ".join(
        f"{task} {' '.join(f'{kind[:12]} {value:.2f}' for kind, value in kinds.items())}"
        for task, kinds in tasks.items()
    )
    console.print(
        f"{point['blocks']} blocks  {point['tokens'] / 1e6:.1f} M tokens  "
        f"{point['minutes']:.1f} min  train {point['train_loss']:.3f}  "
        f"validation {point['validation_loss']:.3f}  {shown}",
        soft_wrap=True,
    )


def train_phase(run: Run, monitor: Monitor, console: Console, until: float | None) -> None:
    """Trains one phase, or part of it when the time is up."""
    enter_phase(run)
    losses: list[Tensor] = []
    for loss in steps(run):
        losses.append(loss)
        if run.total % run.recipe.every == 0:
            note(run, monitor, losses, console)
            losses = []
            save(run)
        if until is not None and time.monotonic() > until:
            break
    if run.step >= run.recipe.phases[run.phase].steps:
        run.phase, run.step = run.phase + 1, 0
    save(run)


def export(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes the model in float16 with its tokenizer, as transformers loads it."""
    rounded = LlamaForCausalLM(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.generation_config.do_sample = False
    rounded.to(torch.float16)
    rounded.save_pretrained(folder)
    build.write_tokenizer(folder)


def train(recipe: Recipe, folder: Path, minutes: float | None = None) -> Run:
    """Trains until all phases are done or the minutes are over, and exports the model."""
    console = Console()
    run = start(recipe, folder)
    monitor = Monitor.prepare(recipe)
    until = None if minutes is None else time.monotonic() + 60 * minutes
    while not run.done and (until is None or time.monotonic() < until):
        train_phase(run, monitor, console, until)
    export(run.model, folder / "model")
    console.print(f"{'done' if run.done else 'stopped'}: {folder / 'model'}")
    return run


def parse_phases(text: str) -> tuple[Phase, ...]:
    """Reads phases such as "3:1000:3e-3,6:1000:2e-3,12:4000:2e-3:0.7:4:222222".

    The fields are blocks, steps and rate, then, if need be, decay share, emphasis and the digits
    that say into how many parts each block is dealt.
    """
    phases = []
    for part in text.split(","):
        blocks, count, rate, *more = part.split(":")
        numbers = [float(number) for number in more[:2]]
        parts = tuple(int(digit) for digit in "".join(more[2:]))
        decay, emphasis = [*numbers, *(0.0, 1.0)[len(numbers) :]]
        phases.append(Phase(int(blocks), int(count), float(rate), decay, emphasis, parts))
    return tuple(phases)


def main(arguments: list[str] | None = None) -> None:
    """Trains the reference model; the same command resumes where a run stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="stop after so long; go on another time")
    parser.add_argument("--phases", type=parse_phases, default=PHASES)
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--inner", type=int, default=Recipe.inner)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--no-bfloat16", dest="bfloat16", action="store_false")
    options = vars(parser.parse_args(arguments))
    output, minutes = options.pop("output"), options.pop("minutes")
    train(Recipe(**options), output, minutes)


if __name__ == "__main__":
    main()
