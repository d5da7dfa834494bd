"""What is ensemble: the same from files as from memory, whatever the order of units, and never worse than ridge."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from ndt.decoders.drift import InputDrift
from ndt.decoders.ensemble import Ensemble, PartEnsemble
from ndt.decoders.gru import fit_gru
from ndt.decoders.naive_bayes import fit_naive_bayes
from ndt.decoders.ridge import fit_ridge
from ndt.errors import InputError
from ndt.evaluation.conformal import Conformal
from ndt.target import Part

LENGTHS, N = (300, 200), 6


@pytest.fixture(scope="module")
def problem():
    """Counts that follow a direction, its labels, and what a network might have said of it."""
    rng = np.random.default_rng(0)
    angle = np.cumsum(rng.normal(0, 0.15, sum(LENGTHS)))
    y = np.stack([np.cos(angle), np.sin(angle)], 1)
    preferred = np.linspace(0, 2 * np.pi, N, endpoint=False)
    counts = rng.poisson(np.exp(0.5 + 1.2 * np.cos(angle[:, None] - preferred))).astype(np.float32)
    cuts = np.cumsum(LENGTHS)[:-1]
    return np.split(counts, cuts), np.split(y, cuts), y + rng.normal(0, 0.3, y.shape)


@pytest.fixture(scope="module")
def ensemble(problem) -> Iterator[Ensemble]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"WIDTH": 8, "STEPS": 4, "VALID_EVERY": 2, "BATCH_SIZE": 4}.items():
            patch.setattr(f"ndt.decoders.gru.{name}", value)
        yield blended_decoder(*problem)


def blended_decoder(x, y, network) -> Ensemble:
    early = np.arange(sum(LENGTHS)) < 350
    train, valid = (np.split(rows, np.cumsum(LENGTHS)[:-1]) for rows in (early, ~early))
    rows = {"bin_size": 0.05}
    members = {
        "ridge": fit_ridge(x, y, train, valid, **rows, max_lag_s=0.2),
        "gru": fit_gru(x, y, train, valid, **rows, kind="angle"),
        "naive_bayes": fit_naive_bayes(x, y, train, valid, **rows, kind="angle", max_window_s=0.2),
    }
    part_ensemble = PartEnsemble(
        part=Part(name="heading", kind="angle", dims=("yaw",)),
        columns=slice(0, 2),
        weights={"network": 0.5, "ridge": 0.2, "gru": 0.1, "naive_bayes": 0.2},
        members=members,
        conformal=Conformal.fit(np.concatenate(y)[:200], network[:200], "angle"),
    )
    return Ensemble(
        parts=(part_ensemble,), unit_ids=tuple(f"u{n}" for n in range(N)), input_drift=InputDrift.fit(x, train, 0.05)
    )


def test_it_is_the_weighted_mean_of_its_members(ensemble, problem) -> None:
    x, _, network = problem
    part_ensemble = ensemble.parts[0]
    expected = 0.5 * network + sum(
        part_ensemble.weights[n] * np.concatenate(p.predict(x)) for n, p in part_ensemble.members.items()
    )
    np.testing.assert_allclose(ensemble.predict(network, x), expected)


def test_from_files_it_says_the_same_to_the_last_bit(ensemble, problem, tmp_path) -> None:
    x, _, network = problem
    ensemble.save(tmp_path)
    found = Ensemble.load(tmp_path)
    np.testing.assert_array_equal(found.predict(network, x), ensemble.predict(network, x))
    own, other = (d.parts[0].conformal.half_width(network) for d in (found, ensemble))
    np.testing.assert_array_equal(own, other)
    np.testing.assert_array_equal(found.input_drift.check(x).shift, ensemble.input_drift.check(x).shift)
    assert (found.unit_ids, found.parts[0].part) == (ensemble.unit_ids, ensemble.parts[0].part)


def test_units_are_found_by_identity_and_missing_ones_are_not_observed(ensemble, problem) -> None:
    x, _, network = problem
    order = np.array([3, 0, 5, 1, 4])  # unit 2 is gone, another is new
    others = [np.hstack([k[:, order], np.full((len(k), 1), 7.0, np.float32)]) for k in x]
    arranged = ensemble.arranged(others, [f"u{n}" for n in order] + ["stranger"])
    lost = [np.where(np.arange(N) == 2, np.nan, k) for k in x]
    np.testing.assert_array_equal(np.concatenate(arranged), np.concatenate(lost).astype(np.float32))
    np.testing.assert_array_equal(ensemble.predict(network, arranged), ensemble.predict(network, lost))


def test_a_member_without_weight_is_not_asked(ensemble, problem) -> None:
    x, _, network = problem
    part_ensemble = ensemble.parts[0]
    alone = PartEnsemble(
        **{**vars(part_ensemble), "weights": {"network": 1.0, "ridge": 0.0}, "members": {"ridge": None}}
    )
    only = Ensemble(parts=(alone,), unit_ids=ensemble.unit_ids, input_drift=ensemble.input_drift)
    np.testing.assert_allclose(only.predict(network, x), network)


def test_files_that_are_missing_or_of_another_format_are_said(ensemble, tmp_path) -> None:
    with pytest.raises(InputError, match=r"ensemble\.json: content: expected a JSON file"):
        Ensemble.load(tmp_path)
    ensemble.save(tmp_path)
    (tmp_path / "ensemble.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"ensemble\.safetensors: content: expected a safetensors file"):
        Ensemble.load(tmp_path)
    ensemble.save(tmp_path)
    found = json.loads((tmp_path / "ensemble.json").read_text())
    (tmp_path / "ensemble.json").write_text(json.dumps(found | {"format": 99}))
    with pytest.raises(InputError, match="format: expected 1, found 99"):
        Ensemble.load(tmp_path)
    (tmp_path / "ensemble.json").write_text(json.dumps({k: v for k, v in found.items() if k != "parts"}))
    with pytest.raises(InputError, match="content: expected what `ndt finetune` writes"):
        Ensemble.load(tmp_path)
