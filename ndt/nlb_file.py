"""Submissions to the Neural Latents Benchmark: checked, written, read back and scored.

A submission is an HDF5 file with a group for each data set (``mc_maze`` at 5 ms, ``mc_maze_20`` at 20 ms), in it arrays
of spikes per bin, trials by bins by units. Targets, as the benchmark's own preparation makes them, lie likewise.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt.errors import InputError
from ndt.metrics import co_bps
from ndt.nlb import co_bps_per_unit, fp_bps, psth_r2, tp_corr, vel_r2
from ndt.nlb_tasks import BIN_MS, TASKS

__all__ = [
    "check_submission",
    "read_submission",
    "read_targets",
    "score_submission",
    "write_submission",
    "write_targets",
]

Arrays = Mapping[str, Any]  # of a submission: (M, T, N); of targets: see `score_submission`
REQUIRED = ("eval_rates_heldin", "eval_rates_heldout")
TRAINING = ("train_rates_heldin", "train_rates_heldout")  # needed to decode velocity
FORWARD = ("eval_rates_heldin_forward", "eval_rates_heldout_forward")
GROUPS = {task + suffix: task for task in TASKS for suffix in BIN_MS.values()}


def check_submission(groups: Mapping[str, Arrays], where: object, *, sizes: bool = False) -> None:
    """Checks a submission as the benchmark's server would, and what the server would trip over.

    Arguments:
        groups: Arrays of each data set.
        where: What an error names.
        sizes: Whether numbers of units must be those of the published files.

    Raises:
        InputError: if there is no data set or an unknown one, an array is missing, unknown, not (M, T, N), negative or
            not finite, or two arrays disagree in trials, bins or units.
    """
    if not groups:
        raise InputError(where, "groups", f"at least one of {', '.join(GROUPS)}", "none")
    for name, arrays in groups.items():
        if name not in GROUPS:
            raise InputError(where, name, f"one of {', '.join(GROUPS)}", "an unknown data set")
        needed = REQUIRED if GROUPS[name] == "dmfc_rsg" else (*REQUIRED, *TRAINING)
        for key in needed:
            if key not in arrays:
                raise InputError(where, f"{name}/{key}", "an array of rates", "none")
        for key, array in arrays.items():
            if key not in (*REQUIRED, *TRAINING, *FORWARD):
                expected = f"one of {', '.join((*REQUIRED, *TRAINING, *FORWARD))}"
                raise InputError(where, f"{name}/{key}", expected, "an unknown array")
            _check_rates(where, f"{name}/{key}", np.asarray(array))
        _check_shapes(where, name, {key: np.shape(array) for key, array in arrays.items()})
        wanted = TASKS[GROUPS[name]].num_units
        found = (arrays[REQUIRED[0]].shape[2], arrays[REQUIRED[1]].shape[2])
        if sizes and any(wanted) and found != wanted:
            expected, given = (f"{a} held-in and {b} held-out units" for a, b in (wanted, found))
            raise InputError(where, name, expected, given)


def _check_rates(where: object, field: str, rates: NDArray[Any]) -> None:
    if rates.ndim != 3 or rates.dtype.kind not in "fiu" or rates.size == 0:
        raise InputError(where, field, "numbers, trials by bins by units", f"{rates.dtype} {rates.shape}")
    if not np.isfinite(rates).all():
        raise InputError(where, field, "finite rates", f"{np.sum(~np.isfinite(rates))} that are not")
    if (rates < 0).any():
        raise InputError(where, field, "rates of at least 0 spikes per bin", f"{rates.min():g}")


def _check_shapes(where: object, name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Pairs agree in trials and bins; units are the same in all parts, evaluated trials the same as before them."""
    for first, second in (REQUIRED, TRAINING, FORWARD):
        if (first in shapes) != (second in shapes):
            lone, lacking = (first, second) if first in shapes else (second, first)
            raise InputError(where, f"{name}/{lacking}", f"an array beside {lone}", "none")
        if first in shapes and shapes[first][:2] != shapes[second][:2]:
            expected = f"{shapes[first][:2]} trials and bins, as in {first}"
            raise InputError(where, f"{name}/{second}", expected, shapes[second][:2])
    for key, peer in ((TRAINING[0], REQUIRED[0]), (TRAINING[1], REQUIRED[1]), *zip(FORWARD, REQUIRED, strict=True)):
        if key in shapes and shapes[key][2] != shapes[peer][2]:
            raise InputError(where, f"{name}/{key}", f"{shapes[peer][2]} units, as in {peer}", shapes[key][2])
    if FORWARD[0] in shapes and shapes[FORWARD[0]][0] != shapes[REQUIRED[0]][0]:
        expected = f"{shapes[REQUIRED[0]][0]} trials, as in {REQUIRED[0]}"
        raise InputError(where, f"{name}/{FORWARD[0]}", expected, shapes[FORWARD[0]][0])


def write_submission(path: str | Path, groups: Mapping[str, Arrays], *, sizes: bool = False) -> Path:
    """Writes a submission whole or not at all, in float32, and returns its path.

    Arguments:
        path: The file, ``.h5``.
        groups: Arrays of each data set.
        sizes: Whether numbers of units must be those of the published files.

    Raises:
        InputError: if `check_submission` finds something; nothing is written then.
    """
    check_submission(groups, path, sizes=sizes)

    return _write(Path(path), {n: {k: np.asarray(v, np.float32) for k, v in a.items()} for n, a in groups.items()})


def write_targets(path: str | Path, groups: Mapping[str, Arrays]) -> Path:
    """Writes targets, see `score_submission`, in the layout of the benchmark's own and returns the file's path."""
    return _write(Path(path), groups)


def _write(path: Path, groups: Mapping[str, Arrays]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(temporary, "w") as file:
            for name, arrays in groups.items():
                for key, value in arrays.items():
                    _put(file.require_group(name), key, value)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

    return path


def _put(group: Any, key: str, value: Any) -> None:
    if isinstance(value, list | tuple):  # of arrays that differ in length
        stored = group.create_dataset(key, (len(value),), dtype=h5py.vlen_dtype(np.int32))
        for i, row in enumerate(value):
            stored[i] = np.asarray(row, np.int32)
    else:
        group.create_dataset(key, data=value, compression="gzip", shuffle=True)


def read_submission(path: str | Path) -> dict[str, dict[str, NDArray[np.floating]]]:
    """Reads a submission and checks it.

    Raises:
        InputError: if there is no such file, it is not HDF5, or `check_submission` finds something.
    """
    groups = _read(Path(path))
    check_submission(groups, path)

    return groups


def read_targets(path: str | Path) -> dict[str, dict[str, Any]]:
    """Reads targets; see `score_submission`.

    Raises:
        InputError: if there is no such file, it is not HDF5, or a group has no held-out spikes.
    """
    groups = _read(Path(path))
    for name, arrays in groups.items():
        if "eval_spikes_heldout" not in arrays:
            raise InputError(path, f"{name}/eval_spikes_heldout", "spikes of held-out units", "none")

    return groups


def _read(path: Path) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    try:
        with h5py.File(path, "r") as file:
            for name, group in file.items():
                if not isinstance(group, h5py.Group):
                    raise InputError(path, name, "a group of arrays", "an array")
                for key, stored in group.items():
                    if not isinstance(stored, h5py.Dataset):
                        raise InputError(path, f"{name}/{key}", "an array", "a group")
                    value = stored[()]
                    ragged = getattr(value, "dtype", np.dtype(float)).kind == "O"
                    groups.setdefault(name, {})[key] = [np.asarray(row) for row in value] if ragged else value
    except OSError as error:
        raise InputError(path, "content", "an HDF5 file", error) from error

    return groups


def score_submission(submission: Mapping[str, Arrays], targets: Mapping[str, Arrays]) -> dict[str, dict[str, Any]]:
    """Returns the scores of each data set that both hold.

    Under ``nlb`` the benchmark's own: ``co-bps``, ``vel R2`` (``tp corr`` for dmfc_rsg), ``psth R2``, ``fp-bps``, as
    far as targets allow. Beside them the same under names that say what they are, and ``co_bps_per_unit``, which is no
    score of the benchmark.

    Arguments:
        submission: Arrays of each data set, see `check_submission`.
        targets: Of each data set, ``eval_spikes_heldout`` (M, T, N), and where there are any ``train_behavior`` and
            ``eval_behavior`` (M, T, C), for dmfc_rsg (M, C); ``train_decode_mask`` and ``eval_decode_mask`` (M, K);
            ``psth`` (J, T, N), ``eval_cond_idx`` (J lists of trials), ``eval_jitter`` (M,) in bins;
            ``eval_spikes_heldin_forward`` and ``eval_spikes_heldout_forward`` (M, F, N).

    Raises:
        InputError: if no data set is in both, or rates and targets differ in shape.
    """
    common = [name for name in submission if name in targets]
    if not common:
        raise InputError("targets", "groups", f"one of {', '.join(submission)}", ", ".join(targets) or "none")

    return {name: _scores(name, submission[name], targets[name]) for name in common}


def _scores(name: str, rates: Arrays, true: Arrays) -> dict[str, Any]:
    _matches(name, rates, true)
    heldout = rates["eval_rates_heldout"]
    both = {  # held-in units first, as in PSTHs
        part: np.concatenate([rates[f"{part}_rates_heldin"], rates[f"{part}_rates_heldout"]], -1)
        for part in ("train", "eval")
        if f"{part}_rates_heldin" in rates
    }
    found = {"co-bps": co_bps(heldout, true["eval_spikes_heldout"])}
    if "eval_behavior" in true and np.ndim(true["eval_behavior"]) == 2:
        found["tp corr"] = tp_corr(both["eval"], true["eval_spikes_heldout"], true["eval_behavior"])
    elif "eval_behavior" in true and "train" in both:
        masks = [None if (mask := true.get(f"{p}_decode_mask")) is None else np.asarray(mask, bool) for p in both]
        train = (both["train"], true["train_behavior"])
        found["vel R2"] = vel_r2(*train, both["eval"], true["eval_behavior"], *masks)
    if "psth" in true:
        found["psth R2"] = psth_r2(true["psth"], both["eval"], true["eval_cond_idx"], true.get("eval_jitter"))
    if FORWARD[0] in rates and "eval_spikes_heldin_forward" in true:
        spikes = [true[f"eval_spikes_{units}_forward"] for units in ("heldin", "heldout")]
        found["fp-bps"] = fp_bps(rates[FORWARD[0]], rates[FORWARD[1]], *spikes)
    labels = {"co-bps": "co_bps_nlb", "tp corr": "tp_corr", "vel R2": "vel_r2_uniform"}
    labels |= {"psth R2": "psth_r2_uniform", "fp-bps": "fp_bps_nlb"}
    per_unit = co_bps_per_unit(heldout, true["eval_spikes_heldout"])

    return {"nlb": found, **{labels[key]: value for key, value in found.items()}, "co_bps_per_unit": per_unit}


def _matches(name: str, rates: Arrays, true: Arrays) -> None:
    pairs = {f"eval_rates_{k}": f"eval_spikes_{k}" for k in ("heldout", "heldin_forward", "heldout_forward")}
    for key, target in pairs.items():
        if key in rates and target in true and np.shape(rates[key]) != np.shape(true[target]):
            expected = f"{np.shape(true[target])}, as targets have"
            raise InputError("submission", f"{name}/{key}", expected, np.shape(rates[key]))
    for part in ("train", "eval"):
        behavior, key = f"{part}_behavior", f"{part}_rates_heldin"
        if behavior not in true or key not in rates:
            continue
        shape = np.shape(true[behavior])[: np.ndim(true[behavior]) - 1]
        if np.shape(rates[key])[: len(shape)] != shape:
            expected = f"{shape} trials and bins, as targets have behaviour"
            raise InputError("submission", f"{name}/{key}", expected, np.shape(rates[key])[: len(shape)])
