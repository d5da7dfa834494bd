"""The encoder is what decodes: with noise in place of its weights, decoding falls to chance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from problems import TINY, specification, training_data

from ndt.config import MaskConfig, PretrainConfig, TrainConfig
from ndt.data.objective import MaskedModelling
from ndt.data.targets import build_targets
from ndt.data.windows import TEST, TRAIN, BinnedSession
from ndt.evaluation.metrics import r2
from ndt.intervals import Intervals
from ndt.model.inference import per_bin
from ndt.model.transformer import NDT
from ndt.session import Covariate, Session, Spikes, Units
from ndt.target import Target, scored_bins
from ndt.train.loop import Trainer

BIN = 0.05


def tuned_recording(seconds: int = 120, num_units: int = 24, seed: int = 0) -> Session:
    """Units tuned to a smooth quantity ``vel`` (half), to the side of trials of 0.8 s (half), and to six others."""
    rng, times = np.random.default_rng(seed), np.arange(round(seconds / BIN)) * BIN + BIN / 2
    vel = np.stack([np.sin(2 * times + 3 * np.sin(0.3 * times)), np.cos(1.3 * times + 2 * np.sin(0.2 * times))], 1)
    side = rng.permutation(np.arange(seconds) % 2)
    sign = np.where(times % 1.0 < 0.8, 2 * side[times.astype(int)] - 1, 0)
    half = num_units // 2
    tuning = np.concatenate([vel @ rng.standard_normal((2, half)), sign[:, None] * rng.choice([-1, 1], half)], 1)
    others = np.sin(2 * np.pi * (times[:, None] * rng.uniform(0.2, 1.0, 6) + rng.random(6)))
    tuning += others @ rng.standard_normal((6, num_units)) * 0.5
    counts = rng.poisson(np.exp(np.clip(tuning - 0.5, -3, 1.5)))
    bins, units = np.nonzero(counts)
    spikes = Spikes(
        timestamps=np.repeat(times[bins], counts[bins, units]), unit_index=np.repeat(units, counts[bins, units])
    )
    starts = np.arange(seconds, dtype=float)

    return Session(
        session_id="sub-a_ses-1",
        subject="a",
        spikes=spikes,
        units=Units(id=np.array([f"a/{n:02}" for n in range(num_units)])),
        observed=Intervals([0.0], [float(seconds)]),
        covariates={
            "vel": Covariate(name="vel", path="vel", timestamps=times, values=vel, dims=("x", "y"), unit="m/s")
        },
        intervals={"trials": Intervals(starts, starts + 0.8, {"side": np.array(["left", "right"])[side]})},
    )


def trained(out: Path) -> tuple[NDT, BinnedSession, Target]:
    """A tiny model that decodes both from its latents."""
    session = tuned_recording()
    config = replace(TINY, width=32, num_layers=2, units_per_patch=64, dropout=0.1)
    binned = BinnedSession(session, BIN, 1.0)
    target = build_targets(session, "vel,trials/side", binned.start, BIN)
    chosen = binned.split == TRAIN
    spec = specification([session], config=config, bin_size=BIN, window_bins=40)
    spec = replace(spec, target=type(spec.target).fitted(target, chosen, "here"))
    train = TrainConfig(
        steps=40, batch_size=12, valid_every=40, warmup_steps=5, learning_rate=1e-2, weight_decay=0.0, ema=0.9,
        precision="fp32",
    )  # fmt: skip
    settings = PretrainConfig(
        model=config, train=train, mask=MaskConfig(ratio=0.5, kinds=("random",), share=0.5), masked_weight=0.1,
        unit_dropout=0.0, embedding_lr_scale=1.0, seed=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = NDT(spec)
    data = training_data(binned, spec, spec.target.standardise(target.values))
    model.observe(session, data.activity)
    model.standardise([data.activity])
    objective = MaskedModelling([data], model, settings)
    Trainer(model, objective, train, out=out, seed=0, resume=False, progress=False).run()

    return model, binned, target


def scores(model: NDT, binned: BinnedSession, target: Target) -> tuple[float, float]:
    """R² of the quantity, and balanced accuracy of the side at each trial's last bin, on the test split."""
    rows = binned.split == TEST
    windows = binned.cover(rows, model.spec.window_bins, model.rows(binned.session))
    decoded = model.spec.target.restore(per_bin(model, windows, model.decode, len(binned)))
    quantity, side = target.columns(0), target.columns(1)
    last = scored_bins(target, 1, rows)
    true, found = target.values[last, side].argmax(1), decoded[last, side].argmax(1)
    right = [np.mean(found[true == k] == k) for k in (0, 1)]

    return r2(target.values[rows, quantity], decoded[rows, quantity]), float(np.mean(right))


def test_with_noise_for_weights_of_stem_and_encoder_decoding_is_at_chance(tmp_path) -> None:
    model, binned, target = trained(tmp_path)
    quantity, side = scores(model, binned, target)
    assert quantity > 0.6
    assert side > 0.85
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(10):
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name.startswith(("stem.", "encoder.", "position.")):
                    p.copy_(torch.randn(p.shape, generator=generator) * p.square().mean().sqrt())  # of the same size
        found.append(scores(model, binned, target))
    mean = np.mean(found, 0)  # one draw may decode a little by chance
    assert mean[0] < 0.15
    assert abs(mean[1] - 0.5) < 0.15
