from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
import torch

from prunebench import DropBlocks, Measurement, Method, Metric, Plan, PrunebenchError, Step
from prunebench.cases.keys import build_method
from prunebench.testing import check_method, check_metric, tiny_model

DICE = random.Random(0)


class Good(Method, frozen=True, tag="conform_good"):
    """Removes the blocks before the last one, highest first; the others here are spoilt."""

    calibrated: ClassVar[bool] = False
    nested: ClassVar[bool] = True

    def blocks(self, lm: Any, count: int) -> Sequence[int]:
        return range(len(lm.blocks) - 2, len(lm.blocks) - 2 - count, -1)

    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        count = target.block_count(lm)
        if count > len(lm.blocks) - 2:
            raise PrunebenchError("too many")
        return Plan((DropBlocks(tuple(self.blocks(lm, count))),))


class Changes(Good, frozen=True, tag="conform_changes"):
    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        next(lm.hf.parameters()).data.add_(1e-3)
        return super().choose(lm, calibration, target)


class Trains(Good, frozen=True, tag="conform_trains"):
    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        lm.hf.train()
        return super().choose(lm, calibration, target)


class Grades(Good, frozen=True, tag="conform_grades"):
    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        weight = lm.hf.lm_head.weight
        weight.grad = torch.zeros_like(weight)
        return super().choose(lm, calibration, target)


class Hooks(Good, frozen=True, tag="conform_hooks"):
    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        lm.blocks[0].register_forward_hook(lambda *_: None)
        return super().choose(lm, calibration, target)


class Removes(Good, frozen=True, tag="conform_removes"):
    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        plan = super().choose(lm, calibration, target)
        lm.keep([i for i in range(len(lm.blocks)) if i != 3])
        return plan


class Dice(Good, frozen=True, tag="conform_dice"):
    def blocks(self, lm: Any, count: int) -> Sequence[int]:
        return DICE.sample(range(1, len(lm.blocks) - 1), count)


class Miscounts(Good, frozen=True, tag="conform_miscounts"):
    def blocks(self, lm: Any, count: int) -> Sequence[int]:
        return super().blocks(lm, count + 1)


class Layers(Good, frozen=True, tag="conform_layers"):
    """Takes the fraction of blocks for the fraction of parameters."""

    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        count = target.blocks or int((target.sparsity or 0) * len(lm.blocks)) - 1
        return Plan((DropBlocks(tuple(self.blocks(lm, count))),))


class Unnested(Good, frozen=True, tag="conform_unnested"):
    def blocks(self, lm: Any, count: int) -> Sequence[int]:
        return range(count, 2 * count)


class Reads(Good, frozen=True, tag="conform_reads"):
    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        calibration.windows()
        return super().choose(lm, calibration, target)


class Lists(Good, frozen=True, tag="conform_lists"):
    def choose(self, lm: Any, calibration: Any, target: Any) -> Any:
        return list(super().choose(lm, calibration, target).edits)


class Raises(Good, frozen=True, tag="conform_raises"):
    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        raise ZeroDivisionError("by nought")


class Refuses(Good, frozen=True, tag="conform_refuses"):
    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        raise PrunebenchError("not today")


class Beyond(Good, frozen=True, tag="conform_beyond"):
    def blocks(self, lm: Any, count: int) -> Sequence[int]:
        return range(len(lm.blocks), len(lm.blocks) + count)


class Gives(Good, frozen=True, tag="conform_gives"):
    """Gives what there is where more was asked."""

    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        count = min(target.block_count(lm), 4)
        return Plan((DropBlocks(tuple(self.blocks(lm, count))),))


class Steps(Good, frozen=True, tag="conform_steps"):
    stepwise: ClassVar[bool] = True

    def choose(self, lm: Any, calibration: Any, target: Any) -> Plan:
        edits = super().choose(lm, calibration, target).edits
        return Plan(edits, (Step(0, {"1": 0.5}, "2", margin=-0.1),))


class Unit(Good, frozen=True, tag="conform_unit"):
    unit: ClassVar[str] = "heads"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Changes, "choose() changes the tensor 'model.embed_tokens.weight'"),
        (Trains, "in evaluation before, "),
        (Grades, "gradients left in weight after"),
        (Hooks, "changes model.layers.0: LlamaDecoderLayer, in evaluation before, "),
        (Removes, "choose() changes the tensor 'model.layers."),
        (Dice, ") gave two different plans: (DropBlocks("),
        (Miscounts, "blocks=2 means 2 blocks, but the plan removes 3"),
        (Layers, "sparsity=0.3 means 4 blocks, but the plan removes 2"),
        (Unnested, "it says nested = True, but blocks=1 gives (DropBlocks(blocks=(1,)),), "),
        (Reads, "choose() reads calibration data, but the class says calibrated = False"),
        (Lists, "choose() returned list, expected a Plan"),
        (Raises, "choose(blocks=1) raised ZeroDivisionError: by nought"),
        (Refuses, "every amount was refused: sparsity=0.3: not today"),
        (Beyond, "cannot be applied: PrunebenchError: the plan drops block 12; this model has"),
        (Gives, "blocks=25 of 12 blocks gave (DropBlocks(blocks=(10, 9, 8, 7)),), expected a Pr"),
        (Steps, "blocks=1: step 0 chose '2', which has no score"),
        (Steps, "blocks=1: step 0 has the margin -0.1"),
        (Steps, "blocks=1: the steps chose ['2'], but the plan removes ['10']"),
        (Unit, "unit is 'heads', expected one of none, given, blocks, sublayers, width"),
    ],
)
def test_a_method_that_breaks_a_promise_is_caught(bad: type[Method], said: str) -> None:
    """Each differs in one thing from one that passes."""
    with pytest.raises(AssertionError) as error:
        check_method(bad())
    assert said in str(error.value)
    assert str(error.value).startswith(f"conform_{bad.__name__.lower()} ({bad.__name__}):\n  ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dense", {}),
        ("random", {}),
        ("shortened_llama", {"criterion": "magnitude"}),
        ("sleb", {}),
        ("slice_global", {}),
        ("sliding_layer_merging", {"threshold": 0.5}),
        ("sprint", {"refit": False, "latency_aware": False}),
    ],
)
def test_our_own_methods_pass(name: str, options: dict[str, Any]) -> None:
    """One of every unit, nested or not, with a trace or without."""
    check_method(build_method(name, options), tiny_model(8))


def test_a_good_method_passes() -> None:
    """The one that the bad ones are made of, also on a model of another size."""
    check_method(Good())
    check_method(Good(), tiny_model(8))


def test_the_name_must_lead_to_the_class() -> None:
    """Two classes of one name: which of them a case file means is chance."""

    class Other(Method, frozen=True, tag="conform_good"):
        """Another of that name."""

    with pytest.raises(
        AssertionError, match=r"the name 'conform_good' belongs to test_conformance\.Good"
    ):
        check_method(Other())


class Width(Metric, frozen=True, tag="conform_width"):
    """How many parameters there are; the others here are spoilt."""

    unit: ClassVar[str] = "parameters"

    def value(self, lm: Any) -> float:
        return float(lm.num_parameters)

    def measure(self, lm: Any, dense: Any) -> Iterator[Measurement]:
        yield self.measured("all", self.value(lm))


class Noise(Width, frozen=True, tag="conform_noise"):
    def value(self, lm: Any) -> float:
        return DICE.random()


class Named(Width, frozen=True, tag="conform_named"):
    def measure(self, lm: Any, dense: Any) -> Iterator[Measurement]:
        yield Measurement("size/all", 1.0, "parameters", "lower")


class Infinite(Width, frozen=True, tag="conform_infinite"):
    def measure(self, lm: Any, dense: Any) -> Iterator[Measurement]:
        yield Measurement("conform_infinite/all", float("inf"), "parameters", "lower")


class Twice(Width, frozen=True, tag="conform_twice"):
    def measure(self, lm: Any, dense: Any) -> Iterator[Measurement]:
        yield self.measured("all", 1.0)
        yield self.measured("all", 2.0)


class Silent(Width, frozen=True, tag="conform_silent"):
    def measure(self, lm: Any, dense: Any) -> Iterator[Measurement]:
        yield from ()


class Unpaired(Width, frozen=True, tag="conform_unpaired"):
    def measure(self, lm: Any, dense: Any) -> Iterator[Measurement]:
        yield self.measured("all", 1.0, [1.0] * len(lm.blocks))


class Spoils(Width, frozen=True, tag="conform_spoils"):
    def value(self, lm: Any) -> float:
        lm.hf.model.norm.weight.data.mul_(1.5)
        return 1.0


class Fails(Width, frozen=True, tag="conform_fails"):
    def value(self, lm: Any) -> float:
        raise KeyError("nothing")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Noise, "conform_noise/all of the dense model is not the same when measured again"),
        (Named, "'size/all' is not called conform_named/<what>"),
        (Infinite, "conform_infinite/all is inf; what is not finite is None"),
        (Twice, "two measurements are called 'conform_twice/all'"),
        (Silent, "measure() of the pruned model gave nothing"),
        (Unpaired, "is paired, with 12 samples of the dense model, 11 of the pruned"),
        (Spoils, "measure() changes the tensor 'model.norm.weight'"),
        (Fails, "measure() of the dense model raised KeyError: 'nothing'"),
    ],
)
def test_a_metric_that_breaks_a_promise_is_caught(bad: type[Metric], said: str) -> None:
    """Each differs in one thing from one that passes."""
    with pytest.raises(AssertionError) as error:
        check_metric(bad(), tiny_model())
    assert said in str(error.value)


def test_good_metrics_pass() -> None:
    """The one that the bad ones are made of, and two of ours on the reference model."""
    from prunebench.metrics.perplexity import Perplexity
    from prunebench.metrics.repetition import Repetition

    check_metric(Width(), tiny_model())
    check_metric(Perplexity(dataset="tinyworld", seqlen=64, nsamples=2))
    check_metric(Repetition(dataset="tinyworld", nsamples=2, prompt_tokens=8, new_tokens=4))


def test_the_tiny_model_is_the_same_every_time_and_disturbs_no_dice() -> None:
    """Bit for bit; torch's own generator stands where it stood."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, two = tiny_model(2), tiny_model(2)

    assert torch.equal(torch.rand(1), expected)
    for left, right in zip(one.hf.parameters(), two.hf.parameters(), strict=True):
        assert torch.equal(left, right)
