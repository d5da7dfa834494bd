"""Snapshots: what they are made of, what is refused, and samples between them."""

import numpy as np
import pytest

from ndt.dynamics.interpolants import Interpolant, interpolants, transport_pairs
from ndt.dynamics.periodic import nearest, wrap
from ndt.dynamics.snapshots import Snapshot, Snapshots
from ndt.errors import InputError


def same(one: Snapshots, other: Snapshots) -> None:
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


def ragged() -> Snapshots:
    rng = np.random.default_rng(0)
    x = [[rng.normal(size=(n, 2)) for n in (3, 5)], [rng.normal(size=(n, 2)) for n in (4, 2, 6)]]
    return Snapshots.from_arrays(x, [[0.0, 1.0], [0.0, 0.3, 2.0]], [[0.5], [0.7]], held_out_times=[1.0])


def test_ragged_populations_are_recovered() -> None:
    seen = ragged()
    assert (len(seen), seen.num_trajectories, seen.num_dims, seen.span) == (5, 2, 2, (0.0, 2.0))
    assert [len(s.x) for s in seen.of(0)] == [3, 5]
    assert [s.time for s in seen.of(1)] == [0.0, 0.3, 2.0]
    np.testing.assert_array_equal(seen.of(1)[2].x, seen.x[-6:])
    np.testing.assert_allclose(seen[3].weight, [0.5, 0.5])
    assert seen.held_out.tolist() == [False, True, False, False, False]
    kept = seen.fitted
    assert kept.time.tolist() == [0.0, 0.0, 0.3, 2.0]
    np.testing.assert_array_equal(kept.of(1)[2].x, seen.of(1)[2].x)


def test_held_out_trajectories_are_dropped_with_their_parameters() -> None:
    x = np.arange(24.0).reshape(3, 2, 2, 2)
    seen = Snapshots.from_arrays(x, [0.0, 1.0], [1.0, 2.0, 3.0], held_out_mu=[2.0])
    assert seen.fitted.mu.ravel().tolist() == [1.0, 3.0]
    np.testing.assert_array_equal(seen.fitted.of(1)[0].x, x[2, 0])


def test_files_are_read_as_written(tmp_path) -> None:
    seen = ragged()
    same(Snapshots.from_npz(seen.to_npz(tmp_path / "deep" / "seen.npz")), seen)
    x = np.random.default_rng(1).random((4, 10, 2)) * 7
    np.savez(tmp_path / "plain.npz", x=x, time=np.arange(4.0), period=[5.0, 0.0], paired=True)
    plain = Snapshots.from_npz(tmp_path / "plain.npz")
    assert plain.paired
    assert plain.period.tolist() == [5.0, np.inf]
    np.testing.assert_allclose(plain.x[:, 0], np.mod(x[..., 0].ravel(), 5.0))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Snapshots.from_arrays(np.zeros((3, 4, 2)), [0.0, 1.0]), r"trajectory 0: expected shape \(2,\), found"),
        (lambda: Snapshots.from_arrays(np.zeros((2, 4, 2)), [0.0, 0.0]), "each later than the one before"),
        (
            lambda: Snapshots.from_arrays(np.full((2, 4, 2), np.nan), [0.0, 1.0]),
            "at most 1e.18, found 16",
        ),
        (lambda: Snapshots.from_arrays(np.zeros((2, 4)), [0.0, 1.0]), r"expected \(T, N, d\) or"),
        (lambda: Snapshots.from_arrays([np.zeros((0, 2)), np.zeros((2, 2))], [0.0, 1.0]), "at least one a snapshot"),
        (
            lambda: Snapshots.from_arrays([np.zeros((3, 2)), np.zeros((2, 2))], [0, 1], paired=True),
            "as they are paired",
        ),
        (lambda: Snapshots.from_arrays([np.zeros((3, 2)), np.zeros((2, 3))], [0, 1]), "dimensions of snapshots"),
        (lambda: Snapshots.from_arrays(np.zeros((2, 4, 2)), [0, 1], weight=-np.ones((2, 4))), "numbers of at least 0"),
        (lambda: Snapshots.from_arrays(np.zeros((2, 4, 2)), [0, 1], period=[-1.0, 0]), "lengths above 0"),
        (lambda: Snapshots.from_arrays(np.zeros((2, 4, 2)), [0, 1], [3.0], held_out_mu=[4.0]), "held_out_mu"),
        (lambda: ragged().select(np.zeros(5, bool)), "at least one snapshot"),
    ],
)
def test_invalid_snapshots_are_refused(call, told) -> None:
    with pytest.raises(InputError, match=told):
        call()


def test_invalid_files_are_named(tmp_path) -> None:
    (tmp_path / "no.npz").write_text("no")
    for name in ("no.npz", "absent.npz"):
        with pytest.raises(InputError, match=f"{name}: content: expected an .npz file of arrays"):
            Snapshots.from_npz(tmp_path / name)
    np.savez(tmp_path / "lacks.npz", x=np.zeros((2, 3, 1)))
    with pytest.raises(InputError, match=r"lacks\.npz: time: expected an array of that name, found x"):
        Snapshots.from_npz(tmp_path / "lacks.npz")


def test_periodic_differences_take_the_short_way_round() -> None:
    period = np.array([10.0, np.inf])
    np.testing.assert_allclose(wrap(np.array([[-1.0, -1.0], [23.0, 23.0], [-1e-18, 0.0]]), period)[:, 0], [9, 3, 0])
    np.testing.assert_allclose(nearest(np.array([[9.0, 9.0], [-6.0, -6.0]]), period), [[-1.0, 9.0], [4.0, -6.0]])


def interpolant(kind: str, **given) -> Interpolant:
    x = np.array([[[9.0, 0.0], [1.0, 1.0]], [[1.0, 2.0], [3.0, 3.0]]])
    seen = Snapshots.from_arrays(x, [0.0, 2.0], paired=True, period=[10.0, 0], **given)
    return Interpolant(seen.of(0), seen.period, kind, np.random.default_rng(0))


def test_paths_are_straight_and_take_the_short_way_round() -> None:
    x, speed = interpolant("paths").sample(np.array([0.5]), 50, np.random.default_rng(0))
    first = np.unique(x[0], axis=0)
    np.testing.assert_allclose(first, [[1.5, 1.5], [9.5, 0.5]])
    np.testing.assert_allclose(np.unique(speed[0], axis=0), [[1.0, 1.0]])


def test_a_mixture_draws_each_snapshot_in_proportion_to_time() -> None:
    x, speed = interpolant("mixture").sample(np.array([0.5]), 4000, np.random.default_rng(0))
    np.testing.assert_allclose((x[0, :, 1] >= 2).mean(), 0.25, atol=4 * np.sqrt(0.25 * 0.75 / 4000))
    assert np.isnan(speed).all()


def test_recorded_velocities_are_those_of_their_samples() -> None:
    of = interpolant("snapshots", velocity=np.arange(8.0).reshape(2, 2, 2))
    x, speed = of.sample(np.array([0.0, 2.0]), 20, np.random.default_rng(0))
    assert of.has_velocities
    for at, v in zip(x.reshape(-1, 2), speed.reshape(-1, 2), strict=True):
        np.testing.assert_array_equal(v, {0.0: [0, 1], 1.0: [2, 3], 2.0: [4, 5], 3.0: [6, 7]}[at[1]])


def test_transport_pairs_in_one_dimension_are_sorted_samples() -> None:
    rng = np.random.default_rng(2)
    one, other = (Snapshot(0.0, rng.normal(size=(60, 1)), None, np.full(60, 1 / 60)) for _ in range(2))
    rows, columns = transport_pairs(one, other, np.array([np.inf]), rng)
    x, y = one.x[rows], other.x[columns]
    order = np.argsort(x[:, 0])
    np.testing.assert_array_equal(x[order], np.sort(one.x, axis=0))
    np.testing.assert_array_equal(y[order], np.sort(other.x, axis=0))


def test_samples_are_drawn_in_proportion_to_their_weights() -> None:
    x = np.array([[[0.0], [1.0]], [[5.0], [6.0]]])
    seen = Snapshots.from_arrays(x, [0.0, 1.0], weight=np.array([[3.0, 1.0], [0.0, 2.0]]))
    assert seen[1].weight.tolist() == [0.0, 1.0]
    for kind in ("mixture", "transport"):
        of = Interpolant(seen.of(0), seen.period, kind, np.random.default_rng(0))
        found, _ = of.sample(np.array([0.0, 1.0]), 4000, np.random.default_rng(1))
        np.testing.assert_allclose((found[0] == 0).mean(), 0.75, atol=4 * np.sqrt(0.75 * 0.25 / 4000))
        np.testing.assert_allclose(found[1], 6.0)


def test_unpaired_paths_and_single_snapshots_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="interpolant: expected transport, mixture or snapshots"):
        interpolants(ragged(), "paths", rng)
    alone = Snapshots.from_arrays(np.zeros((1, 3, 2)), [0.0])
    with pytest.raises(InputError, match="trajectory 0: expected at least two snapshots to fit, found 1"):
        interpolants(alone, "mixture", rng)


def test_the_automatic_interpolant_depends_on_the_displacement() -> None:
    rng = np.random.default_rng(3)
    for shift, expected in ((0.1, "mixture"), (5.0, "transport")):
        seen = Snapshots.from_arrays([rng.normal(shift * k, 1, (50, 2)) for k in range(3)], [0.0, 1.0, 2.0])
        assert interpolants(seen, "auto", rng)[0].kind == expected
    paired = Snapshots.from_arrays(np.zeros((2, 3, 1)), [0.0, 1.0], paired=True)
    assert interpolants(paired, "auto", rng)[0].kind == "paths"


def test_paths_of_a_diffusion_are_rough_and_smooth_ones_are_not() -> None:
    rng, times = np.random.default_rng(4), np.array([0.0, 0.1, 0.15, 0.3, 0.4, 0.6])
    push = rng.normal(size=(6, 400, 2)) * np.sqrt(np.diff(times, prepend=0.0))[:, None, None]
    straight = times[:, None, None] * rng.normal(size=(400, 2))
    for x, rough in ((np.cumsum(push, 0), True), (straight, False)):
        seen = Snapshots.from_arrays(x, times, paired=True)
        assert Interpolant(seen.of(0), seen.period, "paths", rng).rough == rough
        assert not Interpolant(seen.of(0), seen.period, "transport", rng).rough


def test_parts_of_an_interpolant_partition_its_particles() -> None:
    x = np.arange(10.0)[None, :, None] + np.array([0.0, 100.0])[:, None, None]
    seen = Snapshots.from_arrays(x, [0.0, 1.0], paired=True)
    whole = Interpolant(seen.of(0), seen.period, "paths", np.random.default_rng(0))
    found = [set(whole.part(i, 3).sample(np.array([0.0]), 40, np.random.default_rng(i))[0].ravel()) for i in range(3)]
    assert [len(each) for each in found] == [4, 3, 3]
    assert set.union(*found) == set(range(10))


@pytest.mark.parametrize("paired", [True, False])
def test_a_split_partitions_the_samples(paired) -> None:
    rng = np.random.default_rng(5)
    seen = Snapshots.from_arrays(np.arange(3 * 250.0).reshape(3, 250, 1), [0.0, 1.0, 2.0], paired=paired)
    kept, apart = seen.split(0.1, rng)
    assert apart is not None
    assert [np.diff(s.start).tolist() for s in (kept, apart)] == [[225] * 3, [25] * 3]
    assert sorted(np.concatenate([kept.x, apart.x])[:, 0]) == list(range(750))
    same = np.all(apart.x.reshape(3, 25) % 250 == apart.x[:25, 0] % 250)
    assert same == paired
    assert seen.split(0.1, rng, least=300) == (seen, None)
