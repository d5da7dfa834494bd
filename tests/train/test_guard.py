"""A diverging or non-finite loss ends a run before a step changes the weights."""

import math
from dataclasses import replace

import pytest
import torch

from ndt.config import TrainConfig
from ndt.errors import InputError
from ndt.model.tokens import Batch
from ndt.train.guard import DivergenceGuard
from tests.train.test_loop import TRAIN, problem, trainer


def guard(values: list[float]) -> DivergenceGuard:
    found = DivergenceGuard()
    for value in values:
        assert not found.violations({"x": value})
        found.update({"x": value})
    return found


def test_the_average_is_of_all_steps_and_then_of_about_a_hundred() -> None:
    found = guard([1.0, 2.0, 6.0])
    assert found.averages == {"x": (3, 3.0)}
    found = guard([1.0] * 100 + [2.0])
    assert found.averages["x"][1] == pytest.approx(1.01)


def test_a_loss_explodes_above_the_factor_and_not_at_it() -> None:
    found = guard([2.0] * 10)
    assert not found.violations({"x": 40.0})
    assert found.violations({"x": 40.1}) == {"x": "x 40.1 after 2 on average"}
    assert not guard([2.0] * 9).violations({"x": 400.0})  # too young to tell


def test_negative_losses_are_judged_by_their_magnitude() -> None:
    found = guard([-2.0] * 10)
    assert not found.violations({"x": -1.0, "new": 50.0})
    assert found.violations({"x": 41.0})
    assert found.violations({"x": math.nan})
    assert found.violations({"x": -math.inf})


class Spoiled:
    """Masked modelling whose loss is changed at a step."""

    def __init__(self, at: int, change) -> None:
        self.inner, self.at, self.change = problem()[1], at, change
        self.seen: list[Batch] = []

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def losses(self, model: torch.nn.Module, batch: Batch, step: int):
        value, weight = self.inner.losses(model, batch, step)["nll"]
        if step == self.at:
            self.seen.append(batch)
            if len(self.seen) == 1:
                value = self.change(value)
        return {"nll": (value, weight)}


LONG: TrainConfig = replace(TRAIN, steps=24)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x * math.nan, "nll nan"),
        (lambda x: x * 1e3, r"nll [\d.]+ after [\d.]+ on average"),
        (lambda x: x + 0 * (0 * x).sqrt(), "a gradient of norm nan"),  # the loss itself is as ever
    ],
)
def test_the_error_names_the_step_the_sessions_and_the_last_checkpoint(tmp_path, change, said) -> None:
    run = trainer(tmp_path, LONG, objective=Spoiled(14, change))
    with pytest.raises(InputError, match=said) as told:
        run.run()
    assert "loss at step 14: expected a finite number, at most 20 times its average" in str(told.value)
    assert "sessions in the batch: sub-a_ses-4, sub-a_ses-7" in str(told.value)
    assert str(told.value).endswith("last good checkpoint: checkpoints/step_00000012")
    assert "\n" not in str(told.value)
    assert max(p.name for p in (tmp_path / "checkpoints").iterdir()) == "step_00000012"
    assert all(v.isfinite().all() for v in run.model.state_dict().values())


@pytest.mark.slow
def test_only_the_sessions_of_the_micro_batch_at_fault_are_named(tmp_path) -> None:
    spoiled = Spoiled(14, lambda x: x * math.nan)
    run = trainer(tmp_path, replace(LONG, micro_batches=4), objective=spoiled)
    with pytest.raises(InputError, match="nll nan") as told:
        run.run()
    names = {
        run.model.vocabulary.contexts[row]
        for row in spoiled.seen[0].context[spoiled.seen[0].context_window == 0].tolist()
    }
    (session,) = (name.removeprefix("session:") for name in names if name.startswith("session:"))
    assert f"sessions in the batch: {session};" in str(told.value)


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_from_its_last_good_checkpoint(tmp_path) -> None:
    with pytest.raises(InputError, match="nll nan"):
        trainer(tmp_path / "a", LONG, objective=Spoiled(14, lambda x: x * math.nan)).run()
    mended, whole = trainer(tmp_path / "a", LONG, resume=True), trainer(tmp_path / "b", LONG)
    assert mended.step == 12
    for run in (mended, whole):
        run.run()
    torch.testing.assert_close(mended.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(mended.average, whole.average, rtol=0, atol=0)


def test_spoiled_weights_are_never_saved(tmp_path) -> None:
    """Weights can overflow in the very step after which they are saved, while loss and gradient were finite."""
    run = trainer(tmp_path)
    with torch.no_grad():
        run.model.stem.linear.bias[0] = math.inf
    with pytest.raises(InputError, match=r"weights at step 0: .*none yet"):
        run._validate()
    assert not (tmp_path / "checkpoints").exists()
