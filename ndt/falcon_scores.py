"""Scores by the definitions of the FALCON benchmark, under its own names: R², word and character errors, spectrograms.

A session is a day, of which there may be several files; each is scored by itself, and mean and standard deviation are
over sessions.

Reference: Karpowicz et al. (2024), https://doi.org/10.1101/2024.09.15.613126, and the benchmark's own scorer
(falcon_challenge, evaluator.py, as of 2024), which the definitions follow.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndt.errors import InputError
from ndt.finite_r2 import finite_r2
from ndt.session import Session

__all__ = [
    "edit_distance",
    "falcon_error_rates",
    "falcon_mask",
    "falcon_r2",
    "falcon_session",
    "falcon_spectrogram_mse",
    "split_scores",
]

MASKS = ("eval_mask", "blacklist")  # names of the table of time that is scored, in any case
PLACES = {"start": 0.0, "centre": 0.5, "end": 1.0}

Array = NDArray[np.float64]


def falcon_mask(session: Session, start: Array, bin_size: float, *, at: str = "end") -> NDArray[np.bool_]:
    """Returns which bins the benchmark scores, (R,).

    A file's `eval_mask` says which samples are scored, its `Blacklist` which are not; both were read as the time that
    is scored. (Files describe eval_mask as what to ignore, the benchmark's own reader keeps where it is true.)

    Arguments:
        session: The session.
        start: Starts of the bins in seconds, (R,).
        bin_size: Their width in seconds; the benchmark's is 20 ms.
        at: Where in its bin a sample of the mask stands: ``end`` in H1 and M1 (and H2, which was not verified),
            ``start`` in M2.

    Raises:
        InputError: if the session has no such table.
    """
    if at not in PLACES:
        raise InputError("falcon", "at", " or ".join(PLACES), repr(at))
    found = next((session.intervals[t] for m in MASKS for t in session.intervals if t.lower() == m), None)
    if found is None:
        listed = ", ".join(session.intervals) or "no table"
        raise InputError(session.session_id, "eval_mask", "a table of the time that is scored", listed)

    return found.contains(np.asarray(start, np.float64) + PLACES[at] * bin_size)


def falcon_session(file: str) -> str:
    """Returns the session that a file is of: H1's sets of a day are one session, and so are M2's runs.

    Example:
        >>> falcon_session("S6_set_2"), falcon_session("Run1_20201030"), falcon_session("L_20121004")
        ('S6', '20201030', 'L_20121004')
    """
    if (run := re.fullmatch(r"Run\d+_(.+)", file)) is not None:
        return run[1]

    return file.partition("_")[0] if re.match(r"S\d+_", file) else file


def falcon_r2(
    true: Mapping[str, ArrayLike], predicted: Mapping[str, ArrayLike], masks: Mapping[str, NDArray[np.bool_]]
) -> dict[str, float]:
    r"""Returns ``R2 Mean``, ``R2 Std.`` and ``<session> R2``: variance-weighted R² of each session's scored bins.

    .. math:: R^2 = 1 - \sum_{tc} (y_{tc} - \hat y_{tc})^2 / \sum_{tc} (y_{tc} - \bar y_c)^2

    over the dimensions that vary in the session.

    Arguments:
        true: Covariate of each file, shape (T, C); see `falcon_session`.
        predicted: What was decoded; what follows the last true bin is left out.
        masks: Which bins are scored, (T,).

    Raises:
        InputError: if files or shapes differ, or a scored bin is NaN.
    """
    if not true or true.keys() != predicted.keys() or true.keys() != masks.keys():
        raise InputError("falcon", "files", f"predictions and masks of {', '.join(true) or 'a file'}", [*predicted])
    sessions: dict[str, list[tuple[Array, Array]]] = {}
    for name in sorted(true):
        y, x, mask = np.asarray(true[name], float), np.asarray(predicted[name], float), np.asarray(masks[name], bool)
        x = x[: len(mask)]
        if y.ndim != 2 or x.shape != y.shape or mask.shape != y.shape[:1]:
            raise InputError("falcon", name, f"predictions {y.shape} and a mask", f"{x.shape} and {mask.shape}")
        if np.isnan(y[mask]).any() or np.isnan(x[mask]).any():
            raise InputError("falcon", name, "numbers in all scored bins", "NaN")
        sessions.setdefault(falcon_session(name), []).append((y[mask], x[mask]))
    scores: dict[str, float] = {}
    for name, parts in sessions.items():
        y, x = (np.concatenate(side) for side in zip(*parts, strict=True))
        if len(y) < 2:
            raise InputError("falcon", name, "at least 2 scored bins", len(y))
        scores[name] = finite_r2(y, x, weighted=True)

    return {**_over_sessions("R2", list(scores.values())), **{f"{name} R2": r2 for name, r2 in scores.items()}}


def falcon_error_rates(true: Mapping[str, Sequence[str]], predicted: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Returns ``WER``, ``CER`` and their ``Std.``: edits that make the sentences right, per word and per character.

    Edits of a session's sentences are summed before they are divided by its words or characters. Between words stands
    a space or ``>``; in word errors the marks ``~ , ! ?`` are words by themselves.

    Arguments:
        true: Sentences of each session.
        predicted: What was decoded, as many.

    Raises:
        InputError: if sessions or numbers of sentences differ, or there is none.
    """
    if not true or true.keys() != predicted.keys():
        raise InputError("falcon", "sessions", ", ".join(true) or "a session", ", ".join(predicted) or "none")
    rates: dict[str, list[float]] = {"WER": [], "CER": []}
    for name, sentences in true.items():
        if not sentences or len(sentences) != len(predicted[name]):
            raise InputError("falcon", name, f"{max(len(sentences), 1)} sentences", len(predicted[name]))
        for key, cut in (("WER", _words), ("CER", list)):
            pairs = [(cut(a), cut(b)) for a, b in zip(sentences, predicted[name], strict=True)]
            rates[key].append(sum(edit_distance(a, b) for a, b in pairs) / max(sum(len(a) for a, _ in pairs), 1))

    means = {key: float(np.mean(values)) for key, values in rates.items()}

    return means | {f"{key} Std.": float(np.std(values)) for key, values in rates.items()}


def _words(sentence: str) -> list[str]:
    return re.sub(r"([~,!?])", r" \1", sentence.replace(">", " ")).split(" ")


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Returns how many insertions, deletions and substitutions make one sequence the other.

    Example:
        >>> edit_distance("kitten", "sitting")
        3
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))

    return row[-1]


def falcon_spectrogram_mse(
    true: Mapping[str, ArrayLike], predicted: Mapping[str, ArrayLike], masks: Mapping[str, ArrayLike]
) -> dict[str, float]:
    """Returns ``MSE Mean`` and ``MSE Std.`` of spectrograms (B1), each trial brought to the range from 0 to 1.

    What the mask leaves out is zero on both sides, and counts in the range and in the mean. A trial in which nothing
    varies is zero throughout.

    Arguments:
        true: Spectrograms of each session, trials by samples by frequencies.
        predicted: What was reconstructed.
        masks: Which entries are scored.

    Raises:
        InputError: if sessions or shapes differ.
    """
    if not true or true.keys() != predicted.keys() or true.keys() != masks.keys():
        raise InputError("falcon", "sessions", ", ".join(true) or "a session", ", ".join(predicted) or "none")
    errors = []
    for name in true:
        y, x, mask = (np.asarray(part[name], np.float64) for part in (true, predicted, masks))
        if y.ndim != 3 or y.shape != x.shape or y.shape != mask.shape:
            raise InputError("falcon", name, f"spectrograms and masks {y.shape}", f"{x.shape} and {mask.shape}")
        errors.append(
            np.mean([np.mean((_unit_range(a) - _unit_range(b)) ** 2) for a, b in zip(y * mask, x * mask, strict=True)])
        )

    return _over_sessions("MSE", errors)


def _unit_range(x: Array) -> Array:
    width = np.ptp(x)

    return (x - x.min()) / width if width > 0 else np.zeros_like(x)


def _over_sessions(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name} Mean": float(np.mean(values)), f"{name} Std.": float(np.std(values))}


def split_scores(held_in: Mapping[str, float] | None, held_out: Mapping[str, float] | None) -> dict[str, float]:
    """Returns scores of held-in and held-out sessions in one, as the benchmark's leaderboard names them.

    Example:
        >>> split_scores({"R2 Mean": 0.5}, {"R2 Mean": 0.25})
        {'Held In R2 Mean': 0.5, 'Held Out R2 Mean': 0.25}
    """
    parts = (("Held In", held_in), ("Held Out", held_out))

    return {f"{name} {key}": value for name, scores in parts if scores is not None for key, value in scores.items()}
