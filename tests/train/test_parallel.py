"""Micro-batches, recomputed blocks and precision give the same gradients."""

from dataclasses import replace

import pytest
import torch
from problems import TINY, busy_model, recording, specification
from torch import Tensor

from ndt.errors import InputError
from ndt.model.layers import Block
from ndt.model.transformer import NDT
from ndt.train.loop import Trainer
from ndt.train.parallel import recompute_blocks, release_blocks
from ndt.train.resume import part
from tests.train.test_loop import TRAIN, problem, trainer


def noted(run: Trainer) -> list[dict[str, Tensor]]:
    """Takes the steps of a run and returns the gradients of each."""
    found: list[dict[str, Tensor]] = []
    note = lambda *_: found.append({k: p.grad.clone() for k, p in run.network.named_parameters() if p.grad is not None})
    run.optimizer.register_step_pre_hook(note)
    for _ in range(8):
        run._take_step()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "micro_batches"), [(4, 2), (5, 3), (4, 4)])
def test_micro_batches_make_the_step_of_the_whole_batch(tmp_path, batch_size, micro_batches) -> None:
    """Micro-batches differ in their targets: a mean of their means would be another loss."""
    # Adam makes steps of the learning rate's size even of rounding errors, where a gradient is zero but for them.
    config = replace(TRAIN, batch_size=batch_size, learning_rate=1e-4, warmup_steps=0)
    whole, parts = (
        trainer(tmp_path / "a", config),
        trainer(tmp_path / "b", replace(config, micro_batches=micro_batches)),
    )
    expected, found = noted(whole), noted(parts)
    assert len(parts._rows()) == micro_batches
    assert expected[-1]["identity.residual"].abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(parts.model.state_dict(), whole.model.state_dict(), rtol=0, atol=1e-6)
    assert parts.tokens == whole.tokens


def gradients(model: NDT, step: int = 0) -> dict[str, Tensor]:
    """Gradients by name of a step with dropout."""
    objective = problem()[1]
    batch = objective.batch(step, range(8))
    torch.manual_seed(5)
    value, _ = objective.losses(model.train(), batch, step)["nll"]
    value.backward()
    return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


def kept_bytes(model: NDT) -> int:
    """How much a step keeps for its backward pass."""
    kept: dict[int, int] = {}
    keep = lambda x: kept.setdefault(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) and x
    objective = problem()[1]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        held = objective.losses(model.train(), objective.batch(0, range(8)), 0)
    del held
    return sum(kept.values())


def deep_model() -> NDT:
    sessions = [recording(num_units=n, name=f"sub-a_ses-{n}", seed=n) for n in (4, 7)]
    return busy_model(specification(sessions, dims=0, config=replace(TINY, num_layers=4, dropout=0.3)))


def test_recomputed_blocks_have_the_same_gradients_in_less_memory() -> None:
    plain, cheap = deep_model(), deep_model()
    recompute_blocks(cheap)
    assert list(cheap.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(gradients(cheap), gradients(plain), rtol=0, atol=0)
    assert kept_bytes(cheap) < 0.5 * kept_bytes(plain)


def test_released_blocks_are_as_they_were() -> None:
    model = deep_model()
    recompute_blocks(model)
    block = next(m for m in model.modules() if isinstance(m, Block))
    assert "forward" in vars(block)
    release_blocks(model)
    assert "forward" not in vars(block)


@pytest.mark.slow
def test_a_run_with_recomputed_blocks_is_the_run_without(tmp_path) -> None:
    runs = [
        trainer(tmp_path / name, replace(TRAIN, checkpoint_activations=on), dropout=0.2)
        for name, on in (("a", False), ("b", True))
    ]
    for run in runs:
        run.run()
    torch.testing.assert_close(runs[1].model.state_dict(), runs[0].model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(runs[1].average, runs[0].average, rtol=0, atol=0)
    assert not any("forward" in vars(m) for m in runs[1].model.modules())


def test_bf16_has_no_loss_scaler(tmp_path) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # precision is set once a process
    try:
        run = trainer(tmp_path, replace(TRAIN, precision="bf16"))
        assert run.accelerator.scaler is None
        with run.accelerator.autocast():
            assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.bfloat16
        run._take_step()
        assert all(p.dtype == torch.float32 for p in run.model.parameters())
    finally:
        AcceleratorState._reset_state()


def test_averages_and_moments_resume_to_the_bit(tmp_path) -> None:
    whole = trainer(tmp_path)
    for _ in range(5):
        whole._take_step()
    whole._validate()
    whole._checkpoint()
    resumed = trainer(tmp_path, resume=True)
    torch.testing.assert_close(resumed._tensors(), whole._tensors(), rtol=0, atol=0)
    assert resumed.guard.averages == whole.guard.averages
    for run in (whole, resumed):
        for _ in range(5):
            run._take_step()
    torch.testing.assert_close(resumed.average, whole.average, rtol=0, atol=0)
    assert part(whole._tensors(), "average/").keys() == whole.model.state_dict().keys()


def test_shares_are_read_by_sharded_runs_only(tmp_path) -> None:
    """Their index is a pickle, and a pickle can run code."""
    run = trainer(tmp_path)
    run._validate()
    run._checkpoint()
    (run.checkpoints.last() / "state.safetensors").rename(run.checkpoints.last() / ".metadata")
    with pytest.raises(InputError, match=r"train\.sharding: expected fsdp, as the checkpoint, found none"):
        trainer(tmp_path, resume=True)
