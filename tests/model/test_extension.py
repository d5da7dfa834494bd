"""Extended models keep the rows they have, and the heads of parts that both targets have."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import NDT2, TINY, busy_model, random_activity, random_window, recording, specification, with_means

from ndt.config import ModelConfig
from ndt.data.windows import BinnedSession
from ndt.model.checkpoint import ModelSpec, TargetSpec
from ndt.model.tokens import pack
from ndt.target import Part

P = TINY.units_per_patch
VEL = Part(name="vel", kind="continuous", dims=("x", "y"), unit="m/s")
SPEED = Part(name="speed", kind="continuous", dims=("s",), unit="m/s")
GO = Part(name="trials/go", kind="class", dims=("left", "right"), per="trials")


def decoding(spec: ModelSpec, parts: tuple[Part, ...], auxiliary: tuple[Part, ...] = ()) -> ModelSpec:
    """The specification with another target."""
    dims = tuple(c for part in parts for c in part.columns)
    target = TargetSpec(
        name=",".join(part.name for part in parts), dims=dims, unit="", mean=(0.0,) * len(dims),
        std=(1.0,) * len(dims), parts=parts, auxiliary=auxiliary,
    )  # fmt: skip
    return replace(spec, target=target)


@pytest.mark.parametrize("config", [TINY, NDT2])
def test_an_extended_model_says_the_same_of_what_it_knew(config) -> None:
    old, new = recording(num_units=4), recording(num_units=6, name="sub-a_ses-2")
    model = with_means(busy_model(specification([old], config=config)), np.arange(4) + 0.5)
    spec = specification([old, new], config=config)
    other = model.extended(spec).eval()
    window = BinnedSession(old, 0.05, 1.0).window(0, 20, spec.vocabulary.rows(old))
    window = replace(window, hidden=np.arange(20)[:, None] * np.ones(4) > 15)
    with torch.no_grad():
        found, expected = other(pack([window], P)), model(pack([window], P))
    torch.testing.assert_close(found.decoded, expected.decoded, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.log_rates, expected.log_rates, rtol=0, atol=1e-5)


def test_new_units_and_contexts_have_no_residual_and_the_normaliser_stays() -> None:
    old, new = recording(num_units=4), recording(num_units=6, name="sub-b_ses-2")
    model = with_means(busy_model(specification([old])), np.arange(4) + 0.5)
    model.standardise([random_activity(np.arange(9))])
    spec = specification([old, new])
    other = model.extended(spec)
    assert not other.identity.residual[4:].any()
    assert not other.identity.activity[4:].any()
    row = spec.vocabulary.contexts.index("session:sub-b_ses-2")
    assert not other.context[row:].any()
    torch.testing.assert_close(other.context[:row], model.context)
    for name in ("activity_mean", "activity_std"):
        torch.testing.assert_close(getattr(other.identity, name), getattr(model.identity, name), rtol=0, atol=0)
    model.identity.residual.data.zero_()
    assert other.identity.residual[:4].all()  # a copy


def test_new_contexts_of_ndt2_start_at_the_mean_of_their_kind() -> None:
    old = [recording(num_units=4), recording(num_units=4, name="sub-a_ses-2")]
    spec = specification([*old, recording(num_units=4, name="sub-a_ses-3")], config=NDT2)
    model = busy_model(specification(old, config=NDT2))
    other = model.extended(spec)
    known = [model.vocabulary.contexts.index(f"session:sub-a_ses-{i}") for i in (1, 2)]
    row = spec.vocabulary.contexts.index("session:sub-a_ses-3")
    torch.testing.assert_close(other.context[row], model.context[known].mean(0))


def test_heads_of_shared_parts_are_kept_wherever_they_stand() -> None:
    spec = specification([recording()])
    model = busy_model(decoding(spec, (VEL, GO), (SPEED,)))
    torch.manual_seed(0)
    other = model.extended(decoding(spec, (SPEED,), (GO, VEL)))
    for i, part in enumerate((SPEED, GO, VEL)):
        own = model.heads[(VEL, GO, SPEED).index(part)]
        torch.testing.assert_close(other.heads[i].state_dict(), own.state_dict(), rtol=0, atol=0)
    changed = (replace(VEL, unit="mm/s"), replace(GO, dims=("left", "mid", "right")), SPEED)
    third = model.extended(decoding(spec, changed))
    assert not torch.equal(third.heads[0].linear.weight, model.heads[0].linear.weight)
    assert third.heads[1].linear.weight.shape == (3, TINY.width)
    torch.testing.assert_close(third.heads[2].state_dict(), model.heads[2].state_dict(), rtol=0, atol=0)
    for name, weight in model.stem.state_dict().items():
        torch.testing.assert_close(third.stem.state_dict()[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("config", [TINY, NDT2])
def test_a_model_without_target_gets_heads_and_may_lose_them(config: ModelConfig) -> None:
    bare, spec = (specification([recording()], config=config, dims=dims) for dims in (0, 2))
    batch = pack([random_window(5, 5, np.random.default_rng(0))], P)
    with torch.no_grad():
        model = busy_model(bare)
        given = model.extended(spec).eval()
        assert given(batch).decoded.shape == (5, 2)
        back = given.extended(bare).eval()
        assert back(batch).decoded is None
        torch.testing.assert_close(back.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_the_decoder_of_ndt2_is_kept_for_the_same_target_only() -> None:
    spec = specification([recording()], config=NDT2)
    model = busy_model(spec)
    same, other = model.extended(spec), model.extended(decoding(spec, (replace(VEL, name="pos"),)))
    torch.testing.assert_close(same.decoder.state_dict(), model.decoder.state_dict(), rtol=0, atol=0)
    assert not torch.equal(other.decoder.readout.weight, model.decoder.readout.weight)
    torch.testing.assert_close(other.embed.count.weight, model.embed.count.weight)
