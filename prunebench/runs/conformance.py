"""What a method or a metric promises, as checks that name each broken promise.

Every case of a run checks the cheap ones, at the end of this file; ``prunebench.testing`` runs all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import torch
from torch import Tensor

from ..api import Method, Metric, Target, tag
from ..edits.drop_blocks import DropBlocks
from ..errors import PrunebenchError
from ..models.calibration import Calibration, Unit
from ..models.causal_lm import CausalLM
from ..models.surgery import apply
from ..plan import Edit, Plan, Step, name, read_edits
from ..record import VARYING, Measurement
from ..specs import CalibrationSpec
from ..system.files import is_name

#: Amounts to check, by unit, smaller ones first.
TARGETS = {
    "none": (Target(),),
    "given": (Target(),),
    "blocks": (Target(blocks=1), Target(blocks=2), Target(blocks=4), Target(sparsity=0.3)),
    "sublayers": (Target(sublayers=1), Target(sublayers=3), Target(sparsity=0.2)),
    "width": (Target(slicing=0.25), Target(slicing=0.5), Target(sparsity=0.3)),
}


class State:
    """All of a model that a method or a metric must leave as it is."""

    def __init__(self, lm: CausalLM) -> None:
        self.tensors = {key: value.detach().clone() for key, value in _tensors(lm)}
        self.parts = _parts(lm)

    def changed(self, lm: CausalLM) -> Iterator[str]:
        """The first tensor and the first module that differ in *lm*, in words."""
        now = dict(_tensors(lm))
        for key in dict.fromkeys([*self.tensors, *now]):
            was, new = self.tensors.get(key), now.get(key)
            if was is None or new is None or was.dtype != new.dtype or not torch.equal(was, new):
                yield f"changes the tensor {key!r}"
                return  # one is enough
        parts = _parts(lm)
        for key in dict.fromkeys([*self.parts, *parts]):
            if (was_part := self.parts.get(key)) != (part := parts.get(key)):
                yield f"changes {key or 'the model'}: {was_part} before, {part} after"
                return


def _tensors(lm: CausalLM) -> Iterator[tuple[str, Tensor]]:
    yield from lm.hf.named_parameters(remove_duplicate=False)
    yield from lm.hf.named_buffers(remove_duplicate=False)


def _parts(lm: CausalLM) -> dict[str, str]:
    """By name, the type, mode, hooks and gradients of each module, in words."""
    found = {"its config": str(lm.hf.config.to_dict())}
    for key, module in lm.hf.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        parameters = dict(module.named_parameters(recurse=False))
        trained = [n for n, p in parameters.items() if p.requires_grad]
        graded = [n for n, p in parameters.items() if p.grad is not None]
        words = [type(module).__name__, "in training" if module.training else "in evaluation"]
        words += [f"{hooks} hooks"] * bool(hooks)
        words += [f"gradients enabled for {', '.join(trained)}"] * bool(trained)
        words += [f"gradients left in {', '.join(graded)}"] * bool(graded)
        found[key] = ", ".join(words)
    return found


class Watched(Calibration):
    """Calibration windows, (windows, length), that record whether they are read."""

    def __init__(self, ids: Tensor, lm: CausalLM) -> None:
        super().__init__(CalibrationSpec("ids", len(ids), ids.shape[1]), lm)
        self._drawn = {"windows": ids, "lines": ids}
        self.read = False

    def windows(self, unit: Unit = "windows") -> Tensor:
        """See ``Calibration.windows``."""
        self.read = True
        return super().windows(unit)


def _some_ids(lm: CausalLM) -> Tensor:
    vocabulary = lm.hf.get_input_embeddings().num_embeddings
    return torch.randint(3, vocabulary, (4, 24), generator=torch.Generator().manual_seed(0))


def _words(target: Target) -> str:
    given = {key: getattr(target, key) for key in target.__struct_fields__}
    amounts = [f"{key}={value}" for key, value in given.items() if value is not None]
    return ", ".join(amounts) or "no amount"


def of_plugin(plugin: Method | Metric, find: Callable[[str], Any]) -> Iterator[str]:
    """Problems of its name and its options."""
    if not is_name(tag(plugin)) or "/" in tag(plugin):
        yield f"the tag {tag(plugin)!r} cannot be part of a file name"
    try:
        found = find(tag(plugin))
        if found is not type(plugin):
            yield f"the name {tag(plugin)!r} belongs to {found.__module__}.{found.__qualname__}"
            return
        if msgspec.json.decode(msgspec.json.encode(plugin), type=found) != plugin:
            yield "its options are not the same after they were written and read"
    except (PrunebenchError, msgspec.MsgspecError, TypeError) as error:
        yield f"its options cannot be written and read: {error}"


class MethodCheck:
    """One method on one model."""

    def __init__(self, method: Method, lm: CausalLM) -> None:
        self.method = method
        self.lm = lm
        self.plans: list[tuple[Target, Plan]] = []
        self.read = False

    def problems(self) -> Iterator[str]:
        """Every problem."""
        refused = ""
        targets = (Target(),) if self.method.sized else TARGETS[self.method.unit]
        for target in targets:
            before = State(self.lm)
            plans: list[Plan] = []
            try:
                plans = [self._choose(target) for _ in range(2)]
            except PrunebenchError as error:
                refused = f"{_words(target)}: {error}"
            except Exception as error:  # an author's code may raise anything
                yield f"choose({_words(target)}) raised {type(error).__name__}: {error}"
            yield from (f"choose() {change}" for change in before.changed(self.lm))
            if plans:
                yield from self._of_plans(target, *plans)
        if refused and not self.plans:
            yield f"every amount was refused: {refused}"
        if self.read and not self.method.calibrated:
            yield "choose() reads calibration data, but the class says calibrated = False"
        yield from self._of_prefixes()
        if self.method.unit in ("blocks", "sublayers") and not self.method.sized:
            yield from self._of_too_much()

    def _choose(self, target: Target) -> Plan:
        calibration = Watched(_some_ids(self.lm), self.lm)
        plan = self.method.choose(self.lm, calibration, target)
        self.read |= calibration.read
        return plan

    def _of_plans(self, target: Target, plan: Plan, again: Plan) -> Iterator[str]:
        if not isinstance(plan, Plan):
            yield f"choose() returned {type(plan).__name__}, expected a Plan"
            return
        asked = _words(target)
        # A method that times the model may choose another order each time.
        if not self.method.times and (plan.edits, plan.trace) != (again.edits, again.trace):
            yield f"choose({asked}) gave two different plans: {plan.edits} and {again.edits}"
        try:
            written = msgspec.json.encode((plan.edits, plan.trace))
            edits, trace = msgspec.json.decode(written, type=tuple[list[Any], tuple[Step, ...]])
            if (read_edits(edits), trace) != (plan.edits, plan.trace):
                yield f"the plan of {asked} is not the same after it was written and read"
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            yield f"the plan of {asked} cannot be written and read: {error}"
        yield from self._of_trace(asked, plan)
        yield from self._of_applied(target, plan)
        self.plans.append((target, plan))

    def _of_applied(self, target: Target, plan: Plan) -> Iterator[str]:
        """Problems of the model that a plan makes."""
        asked = _words(target)
        before = State(self.lm)
        try:
            one, two = apply(self.lm.share(), plan), apply(self.lm.share(), plan)
            yield from (f"the plan of {asked}, applied twice, {c}" for c in State(one).changed(two))
            one.nll(_some_ids(one))
        except Exception as error:  # as above
            yield f"the plan of {asked} cannot be applied: {type(error).__name__}: {error}"
            return
        yield from (
            f"applying the plan of {asked} {c} of the dense" for c in before.changed(self.lm)
        )
        wanted = {"blocks": target.blocks, "sublayers": target.sublayers}.get(self.method.unit)
        if self.method.unit == "blocks" and target.sparsity is not None:
            wanted = target.block_count(self.lm)
        if wanted is not None and plan.size != wanted:
            yield f"{asked} means {wanted} {self.method.unit}, but the plan removes {plan.size}"
        if self.method.unit == "none" and plan.size:
            yield f"its unit says that it removes nothing, but its plan removes {plan.size}"
        narrowed = self.method.unit == "width" and target.sparsity is not None
        if narrowed and one.num_parameters >= self.lm.num_parameters:
            yield f"the plan of {asked} removes no parameters"

    def _of_trace(self, asked: str, plan: Plan) -> Iterator[str]:
        """Steps that cannot have led to the plan; a plan without steps is fine."""
        removed = [name(unit) for edit in plan.edits for unit in edit.units()]
        for step in plan.trace:
            if removed and step.scores and step.chosen not in step.scores:
                yield f"{asked}: step {step.step} chose {step.chosen!r}, which has no score"
            if step.margin is not None and not step.margin >= 0:
                yield f"{asked}: step {step.step} has the margin {step.margin}"
            if not math.isfinite(step.noise) or step.noise < 0:
                yield f"{asked}: step {step.step} has the noise {step.noise}"
        chosen = [step.chosen for step in plan.trace]
        if self.method.stepwise and chosen and chosen != removed:
            yield f"{asked}: the steps chose {chosen}, but the plan removes {removed}"

    def _of_prefixes(self) -> Iterator[str]:
        """Whether the smaller amount of a nested method is a prefix of a larger one."""
        if not self.method.nested or self.method.unit not in ("blocks", "sublayers"):
            return
        _, longest = max(self.plans, key=lambda p: p[1].size, default=(None, Plan()))
        for target, plan in self.plans:
            try:
                cut = longest.prefix(plan.size)
            except ValueError as error:
                yield f"it says nested = True, but its plan cannot be cut short: {error}"
                return
            if [e.bare() for e in cut.edits] != [e.bare() for e in plan.edits]:
                yield (
                    f"it says nested = True, but {_words(target)} gives {plan.edits}, which is "
                    f"not a prefix of {longest.edits}"
                )

    def _of_too_much(self) -> Iterator[str]:
        """Whether an amount of more than the model has is refused."""
        count = 2 * len(self.lm.blocks) + 1
        target = Target(**{self.method.unit: count})
        try:
            plan = self._choose(target)
        except PrunebenchError:
            return
        except Exception as error:  # as above
            yield f"{_words(target)} raised {type(error).__name__}, expected a PrunebenchError"
            return
        gave = f"gave {plan.edits}, expected a PrunebenchError"
        yield f"{_words(target)} of {len(self.lm.blocks)} blocks {gave}"


def of_metric(metric: Metric, dense: CausalLM) -> Iterator[str]:
    """Problems of the measurements of a dense model and of one without a middle block."""
    middle = len(dense.blocks) // 2
    pruned = apply(dense.share(), Plan((DropBlocks((middle,)),)))
    counts = []
    for what, lm in (("dense", dense), ("pruned", pruned)):
        before = State(dense), State(pruned)
        rounds: list[list[Measurement]] = []
        try:
            rounds = [list(metric.measure(lm, dense)) for _ in range(2)]
        except Exception as error:  # as for methods
            yield f"measure() of the {what} model raised {type(error).__name__}: {error}"
        for state, model in zip(before, (dense, pruned), strict=True):
            yield from (f"measure() {change}" for change in state.changed(model))
        if rounds:
            yield from _of_measurements(metric, what, *rounds)
            counts.append({m.metric: len(m.samples) for m in rounds[0] if m.paired})
    for metric_name in (counts[0].keys() & counts[1].keys()) if len(counts) == 2 else ():
        if counts[0][metric_name] != counts[1][metric_name]:
            first, second = (count[metric_name] for count in counts)
            both = f"{first} samples of the dense model, {second} of the pruned"
            yield f"{metric_name} is paired, with {both}"


def _of_measurements(
    metric: Metric, what: str, one: list[Measurement], two: list[Measurement]
) -> Iterator[str]:
    names = [m.metric for m in one]
    if not names and what == "pruned":  # a metric may measure nothing of the dense model
        yield "measure() of the pruned model gave nothing"
    for repeated in {n for n in names if names.count(n) > 1}:
        yield f"two measurements are called {repeated!r}"
    again = {m.metric: m for m in two}
    for m in one:
        if not m.metric.startswith(f"{tag(metric)}/"):
            yield f"{m.metric!r} is not called {tag(metric)}/<what>"
        if not m.unit:
            yield f"{m.metric} has no unit"
        if m.value is not None and not math.isfinite(m.value):
            yield f"{m.metric} is {m.value}; what is not finite is None (self.measured sees to it)"
        elif msgspec.json.decode(msgspec.json.encode(m), type=Measurement) != m:
            yield f"{m.metric} is not the same after it was written and read"
        if not any(word in m.metric for word in VARYING) and again.get(m.metric) != m:
            yield (
                f"{m.metric} of the {what} model is not the same when measured again; one that "
                f"varies has one of these words in its name: {', '.join(VARYING)}"
            )


# ------------------------------------------------------------- checks of every case


def structure(lm: CausalLM) -> object:
    """What changes when a method takes the dense model apart: its modules and their size."""
    return lm.num_parameters, [(name, type(m)) for name, m in lm.hf.named_modules()]


def checked_plan(given: object, method: str) -> Plan:
    """What *method* chose, checked to be a plan.

    Raises:
        PrunebenchError: if it is not a plan, or one of its edits is not an edit.
    """
    if not isinstance(given, Plan):
        raise PrunebenchError(f"{method}: choose() returned {_kind(given)}, expected a Plan")
    for edit in given.edits:
        if not isinstance(edit, Edit):
            raise PrunebenchError(f"{method}: the plan has {_kind(edit)} among its edits")
    return given


def checked_measurements(
    given: Iterable[object] | None, metric: str, *, dense: bool
) -> list[Measurement]:
    """What *metric* measured, checked to be measurements, at least one of a pruned model.

    Raises:
        PrunebenchError: if one is not a measurement, or there is none.
    """
    found = []
    for item in () if given is None else given:
        if not isinstance(item, Measurement):
            message = f"{metric}: measure() gave {_kind(item)}, expected a Measurement"
            raise PrunebenchError(message)
        found.append(item)
    if not found and not dense:
        raise PrunebenchError(f"{metric}: measure() gave no measurement")
    return found


def _kind(value: object) -> str:
    """*value* where it is short, else its type."""
    return f"{value!r:.40}" if isinstance(value, str | int | float | None) else type(value).__name__
