"""The training loop takes the same steps for any number of processes and interruptions."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import TINY, recording, specification, training_data

from ndt.config import MaskConfig, PretrainConfig, TrainConfig
from ndt.data.objective import MaskedModelling
from ndt.data.windows import BinnedSession
from ndt.errors import InputError
from ndt.model.tokens import Batch
from ndt.model.transformer import NDT
from ndt.train.loop import Trainer

TRAIN = TrainConfig(
    steps=12, batch_size=4, valid_every=4, warmup_steps=3, ema=0.9, learning_rate=3e-3, weight_decay=0.05
)
MASK = MaskConfig(ratio=0.5, kinds=("random",), random_only_steps=0, share=1.0)


def problem(**changes) -> tuple[NDT, MaskedModelling]:
    """A small model and masked modelling of two short recordings."""
    sessions = [recording(num_units=n, name=f"sub-a_ses-{n}", seed=n) for n in (4, 7)]
    spec = specification(sessions, dims=0, config=replace(TINY, **changes))
    config = PretrainConfig(
        model=spec.config, mask=MASK, masked_weight=0.5, unit_dropout=0.5, embedding_lr_scale=10.0, window=1.0, seed=3
    )
    torch.manual_seed(0)
    model, data = NDT(spec), [training_data(BinnedSession(s, 0.05, 1.0), spec) for s in sessions]
    model.standardise([d.activity for d in data])
    return model, MaskedModelling(data, model, config)


def trainer(out: Path, config: TrainConfig = TRAIN, *, resume: bool = False, objective=None, **changes) -> Trainer:
    model, masked = problem(**changes)
    return Trainer(model, objective or masked, config, out=out, seed=0, resume=resume, progress=False)


class Scored:
    """Masked modelling whose validation says what it is told to, and notes what it was shown."""

    def __init__(self, scores: list[float]) -> None:
        self.inner, self.scores, self.seen = problem()[1], iter(scores), []

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def validate(self, model: NDT) -> dict[str, float]:
        self.seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"score": next(self.scores)}


class Stopped(Exception):
    """Raised to end a run from within."""


class Fragile:
    """Masked modelling that breaks off at a step."""

    def __init__(self, at: int, **changes) -> None:
        self.inner, self.at = problem(**changes)[1], at

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def batch(self, step: int, rows: range) -> Batch:
        if step == self.at:
            raise Stopped
        return self.inner.batch(step, rows)


def same(a: NDT, b: NDT) -> None:
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


def steps(out: Path, split: str) -> list[int]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["split"] == split]


def test_a_run_is_a_function_of_its_seed(tmp_path) -> None:
    runs = [trainer(tmp_path / name, objective=Scored([0.0, 1.0, 2.0, 3.0])) for name in "ab"]
    before = runs[0].model.identity.residual.detach().clone()
    for run in runs:
        run.run()
    same(runs[0].model, runs[1].model)
    assert not torch.equal(runs[0].model.identity.residual, before)


@pytest.mark.slow
@pytest.mark.parametrize(("at", "dropout"), [(4, 0.0), (11, 0.0), (6, 0.2)])
def test_a_broken_run_that_is_resumed_is_the_unbroken_one(tmp_path, at, dropout) -> None:
    whole = trainer(tmp_path / "whole", dropout=dropout)
    counted = whole.run()
    with pytest.raises(Stopped):
        trainer(tmp_path / "broken", objective=Fragile(at, dropout=dropout), dropout=dropout).run()
    with open(tmp_path / "broken" / "log.jsonl", "a") as file:
        file.write('{"step": 11, "split": "tr')  # a line cut short
    resumed = trainer(tmp_path / "broken", resume=True, dropout=dropout)
    assert resumed.step == at // 4 * 4
    again = resumed.run()
    same(resumed.model, whole.model)
    torch.testing.assert_close(resumed.average, whole.average, rtol=0, atol=0)
    assert (again["steps"], again["tokens_seen"]) == (counted["steps"], counted["tokens_seen"])
    for split in ("train", "valid"):
        assert steps(tmp_path / "broken", split) == steps(tmp_path / "whole", split)


def test_resuming_a_finished_run_changes_nothing(tmp_path) -> None:
    first = trainer(tmp_path)
    first.run()
    again = trainer(tmp_path, resume=True)
    assert again.run()["steps"] == 12
    same(again.model, first.model)


def test_resuming_needs_a_checkpoint_of_this_architecture(tmp_path) -> None:
    with pytest.raises(InputError, match="a checkpoint to resume from, found none"):
        trainer(tmp_path / "new", resume=True)
    trainer(tmp_path / "old").run()
    with pytest.raises(InputError, match="architecture"):
        trainer(tmp_path / "old", resume=True, width=32)


def test_only_the_last_two_checkpoints_are_kept_and_none_is_half(tmp_path) -> None:
    trainer(tmp_path).run()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_00000008", "step_00000012"]
    for folder in (tmp_path / "checkpoints").iterdir():
        assert sorted(p.name for p in folder.iterdir()) == ["state.json", "state.safetensors"]


def test_a_new_run_forgets_the_one_before(tmp_path) -> None:
    trainer(tmp_path).run()
    trainer(tmp_path, replace(TRAIN, steps=4)).run()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]
    assert steps(tmp_path, "valid") == [0, 4]


def test_the_best_weights_are_kept_not_the_last(tmp_path) -> None:
    objective = Scored([0.0, 1.0, 3.0, 2.0])  # the first before any step
    run = trainer(tmp_path, objective=objective)
    run.run()
    torch.testing.assert_close(run.model.state_dict(), objective.seen[2], rtol=0, atol=0)
    assert not run.model.training


def test_weights_that_training_makes_worse_stay_as_they_were(tmp_path) -> None:
    objective = Scored([5.0, 1.0, 3.0, 2.0])
    run = trainer(tmp_path, objective=objective)
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    run.run()
    torch.testing.assert_close(run.model.state_dict(), before, rtol=0, atol=0)


def test_patience_ends_a_run(tmp_path) -> None:
    run = trainer(tmp_path, replace(TRAIN, steps=400, patience=2), objective=Scored([0.0, 1.0, 2.0, 1.5, 2.0, 9.0]))
    assert run.run()["steps"] == 16  # a score that is only equal is no improvement


def test_a_run_without_any_score_can_be_resumed(tmp_path) -> None:
    """The best score, minus infinity, was null in the checkpoint, and could not be compared with any other."""
    with pytest.raises(StopIteration):
        trainer(tmp_path, objective=Scored([math.nan, math.nan])).run()
    trainer(tmp_path, resume=True).run()


def test_averaged_weights_are_a_running_mean_and_off_they_are_the_weights(tmp_path) -> None:
    run = trainer(tmp_path / "a", replace(TRAIN, steps=3))
    weight = run.model.stem.linear.weight
    expected = weight.detach().clone()
    for step in range(3):
        run._take_step()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(run.average["stem.linear.weight"], expected)
    bare = trainer(tmp_path / "b", replace(TRAIN, ema=0.0))
    bare._take_step()
    torch.testing.assert_close(bare.average, dict(bare.model.state_dict()))


def test_the_learning_rate_warms_up_and_falls_to_a_twentieth(tmp_path) -> None:
    run, rates = trainer(tmp_path, replace(TRAIN, steps=20, warmup_steps=4, learning_rate=1e-3)), []
    for _ in range(21):
        run._take_step()
        rates.append([group["lr"] / group["rate"] for group in run.optimizer.param_groups])
    cosine = 0.05 + 0.475 * (1 + np.cos(np.pi * np.arange(21) / 20))
    expected = 1e-3 * cosine * np.minimum(np.arange(1, 22) / 4, 1)
    np.testing.assert_allclose(rates, np.tile(expected[:, None], len(rates[0])))


def test_rows_of_tables_learn_at_their_own_rate(tmp_path) -> None:
    run = trainer(tmp_path)
    own = dict(run.model.named_parameters())
    tables = {id(own[name]) for name in ("identity.residual", "context")}
    for group in run.optimizer.param_groups:
        assert group["rate"] == (
            run.objective.config.embedding_lr_scale if {id(p) for p in group["params"]} & tables else 1.0
        )
    assert tables <= {id(p) for g in run.optimizer.param_groups if g["rate"] > 1 for p in g["params"]}


def test_tables_and_vectors_do_not_decay(tmp_path) -> None:
    run = trainer(tmp_path)
    names = {id(p): name for name, p in run.model.named_parameters()}
    decayed, free = set(), set()
    for group in run.optimizer.param_groups:
        (decayed if group["weight_decay"] else free).update(names[id(p)] for p in group["params"])
    assert decayed | free == set(names.values())
    tables = {"identity.residual", "identity.site", "identity.depth", "context", "context_kind"}
    assert tables <= free
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert {"position.wave.weight", "stem.linear.weight", "identity.outer.weight", "rates.unit.weight"} <= decayed


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path) -> None:
    run = trainer(tmp_path)
    with torch.no_grad():
        run.model.stem.linear.weight.fill_(1e30)  # finite, and what it is multiplied with overflows
    with pytest.raises(InputError, match=r"loss at step 0: expected a finite number"):
        run.run()


@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_take_the_step_of_the_whole_batch(tmp_path, parts, monkeypatch) -> None:
    """A loss is divided by the targets of all of them, not of the first."""
    monkeypatch.setattr("ndt.train.loop.CLIP", 1e9)  # clipped gradients would hide a wrong divisor
    runs = [trainer(tmp_path / str(n), replace(TRAIN, micro_batches=n)) for n in (1, parts)]
    whole, split = (run._take_step() for run in runs)
    np.testing.assert_allclose(split["nll"], whole["nll"], rtol=1e-5)
    gradients = [[run.optimizer.state[p]["exp_avg"] for p in run.model.parameters()] for run in runs]  # times a tenth
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-7)


def test_parts_of_a_global_batch_make_it_up() -> None:
    """Two processes that take four windows each see what one sees that takes eight, and their losses add up."""
    model, objective = problem()
    whole, parts = objective.batch(5, range(8)), [objective.batch(5, range(a, a + 4)) for a in (0, 4)]
    torch.testing.assert_close(whole.counts, torch.cat([p.counts for p in parts]))
    torch.testing.assert_close(whole.hidden, torch.cat([p.hidden for p in parts]))
    with torch.no_grad():
        value, split = ([objective.losses(model, b, 5)["nll"][0] for b in batches] for batches in ([whole], parts))
    torch.testing.assert_close(value[0], split[0] + split[1])
    counts = [objective.targets(b, 5)["nll"] for b in (whole, *parts)]
    torch.testing.assert_close(counts[0], counts[1] + counts[2])
