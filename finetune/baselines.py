"""Baselines of a decoder, fitted and evaluated on the decoder's bins and splits."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ndt.config import FinetuneConfig
from ndt.data.windows import BinnedSession
from ndt.decoders.controls import block_permuted_targets, circularly_shifted_targets, fit_time_gain, fit_time_only
from ndt.decoders.kalman import Kalman, fit_kalman
from ndt.decoders.logistic import TrialDecoder, fit_trial_decoder
from ndt.decoders.naive_bayes import fit_naive_bayes
from ndt.decoders.ridge import Lagged
from ndt.errors import InputError
from ndt.segments import labelled

if TYPE_CHECKING:
    from ndt.decoders.gru import GRU
    from ndt.decoders.tcn import TCN

__all__ = ["Baselines", "reference"]

Rows = NDArray[np.floating]
Facts = dict[str, Any]

CHOSEN = {  # selected settings that metrics.json reports; naive Bayes names its own
    "ridge": ("alpha", "num_lags"),
    "block_permuted": ("alpha", "num_lags"),
    "circularly_shifted": ("alpha", "num_lags"),
    "wiener": ("num_lags",),
    "kalman": ("order", "lag_bins"),
    "tcn": ("steps",),
    "gru": ("steps",),
    "ridge_time_gain": ("shrinkage",),
    "time_only": ("width_bins",),
}
CHOSEN_PER_TRIAL = ("alpha",)


@dataclass(frozen=True)
class Baselines:
    """Predictions of one part by baselines. All are causal; their settings are selected on validation.

    - ``ridge``, ``wiener``: linear regression on lagged counts, with a penalty and with almost none.
    - ``kalman``: linear Gaussian dynamics of the target, and of counts given the target; not for classes.
    - ``naive_bayes``: independent Poisson counts given the target, over cells of its range.
    - ``tcn``: a temporal convolutional network.
    - ``gru``: a small gated recurrent network.
    - ``ridge_time_gain``: ridge times a gain that depends on the time since the segment began.
    - ``time_only``: mean target at each time since the segment began, without spikes.
    - ``block_permuted``, ``circularly_shifted``: controls, ridge fitted to targets permuted in blocks, or shifted
      circularly by half their length; R² must be near 0.

    Of labels per trial there are ``logistic``, or ``ridge`` for quantities and angles, and the controls, on counts in
    parts of the trial (`ndt.decoders.logistic`), and ``tcn`` and ``gru``.

    Arguments:
        decoded: Predictions at every bin by name, (R, C).
        fitted: The fitted decoders, by name.
        facts: By name, selected settings (None for infinite), ``valid_r2`` (by which they were selected) and
            ``seconds`` to fit (ridge's include the two controls); or ``left_out``, the reason for not fitting it.
    """

    decoded: dict[str, Rows]
    fitted: dict[str, Any]
    facts: dict[str, Facts]

    @classmethod
    def fit(
        cls,
        binned: BinnedSession,
        kind: str,
        targets: Rows,
        train: NDArray[np.bool_],
        valid: NDArray[np.bool_],
        config: FinetuneConfig,
        *,
        counts: Rows | None = None,
        auxiliary: Rows | None = None,
        since: NDArray[np.int64] | None = None,
    ) -> "Baselines":
        """Fits the reference and `config.baselines` on training bins, and selects settings on validation bins.

        Arguments:
            binned: The session's bins.
            kind: Kind of the part: ``continuous``, ``angle`` or ``class``.
            targets: The part's columns, NaN where unlabelled, (R, C).
            train: Bins to fit on, (R,).
            valid: Bins to select settings on, (R,).
            config: Fine-tuning; uses `baselines`, `max_lag` and `seed`.
            counts: ``binned.all_counts()``, if already computed.
            auxiliary: Columns that the TCN is trained on but does not predict, NaN where unlabelled, (R, A).
            since: For labels per trial, bins since the trial began (`bins_since_start`), (R,); `train` and `valid` then
                hold one bin a trial.
        """
        counts = binned.all_counts() if counts is None else counts
        edges = np.flatnonzero(np.diff(binned.segment)) + 1
        place = binned.place if since is None else since
        x, y, position, *masks = (list[Any](np.split(a, edges)) for a in (counts, targets, place, train, valid))
        rows = labelled(y, masks[0], "train"), labelled(y, masks[1], "valid")
        other = None if auxiliary is None else np.split(auxiliary, edges)
        own: dict[str, Any] = {"bin_size": binned.bin_size, "kind": kind}
        networks: dict[str, Callable[[], Any]] = {
            "tcn": lambda: _convolutional(x, y, *rows, seed=config.seed, auxiliary=other, **own),
            "gru": lambda: _recurrent(x, y, *rows, seed=config.seed, **own),
        }
        labels = {reference("" if since is None else "trials", kind): y} | _controls(y, *rows, config)
        begin = time.perf_counter()
        if since is not None:
            models: dict[str, Any] = {
                name: fit_trial_decoder(x, values, *rows, position, **own) for name, values in labels.items()
            }
            fits = networks
        else:
            lagged = Lagged(x, *rows, bin_size=binned.bin_size, max_lag_s=config.max_lag)
            # The controls share ridge's normal equations, so they cost almost nothing.
            models = dict(zip(labels, lagged.ridge(list(labels.values())), strict=True))
            fits = {
                "wiener": lambda: lagged.wiener(y),
                "kalman": lambda: _kalman(x, y, *rows, **own),
                "naive_bayes": lambda: fit_naive_bayes(x, y, *rows, **own),
                **networks,
                "ridge_time_gain": lambda: fit_time_gain(models["ridge"], x, y, rows[1], position),
                "time_only": lambda: fit_time_only(y, *rows, position),
            }
        facts: dict[str, Facts] = {next(iter(labels)): {"seconds": time.perf_counter() - begin}}
        _fit_others({name: fit for name, fit in fits.items() if name in config.baselines}, models, facts)
        decoded = {}
        for name, model in models.items():
            timed = name == "ridge_time_gain" or isinstance(model, TrialDecoder)
            inputs = (position,) if name == "time_only" else (x, position) if timed else (x,)
            decoded[name] = np.concatenate(model.predict(*inputs))
            facts[name] = _chosen(name, model) | facts.get(name, {})

        return cls(decoded, models, facts)


def _fit_others(fits: dict[str, Callable[[], Any]], models: dict[str, Any], facts: dict[str, Facts]) -> None:
    """Adds fitted baselines to `models`, and their seconds, or the reason for none, to `facts`."""
    for name, fit in fits.items():
        begin = time.perf_counter()
        try:
            models[name] = fit()
            facts[name] = {"seconds": time.perf_counter() - begin}
        except (InputError, np.linalg.LinAlgError) as error:
            facts[name] = {"left_out": str(error)}


def reference(per: str, kind: str) -> str:
    """Returns the baseline that the others are compared to, of a part with labels `per` row of a table (or bin, "")."""
    return "logistic" if per and kind == "class" else "ridge"


def _controls(y: list[Any], train: list[Any], valid: list[Any], config: FinetuneConfig) -> dict[str, list[Any]]:
    """Returns the targets of the controls, by name."""
    labels = {}
    if "block_permuted" in config.baselines:
        labels["block_permuted"] = block_permuted_targets(y, train, valid, config.seed)
    if "circularly_shifted" in config.baselines:
        labels["circularly_shifted"] = circularly_shifted_targets(y, train, valid)

    return labels


def _kalman(*rows: Any, bin_size: float, kind: str) -> Kalman:
    if kind == "class":
        raise InputError("Kalman filter", "kind", "a continuous target or an angle", "classes")

    return fit_kalman(*rows, bin_size=bin_size)


def _recurrent(*rows: Any, **settings: Any) -> "GRU":
    from ndt.decoders.gru import fit_gru  # imports torch

    return fit_gru(*rows, **settings)


def _convolutional(*rows: Any, **settings: Any) -> "TCN":
    from ndt.decoders.tcn import fit_tcn  # imports torch

    return fit_tcn(*rows, **settings)


def _chosen(name: str, model: Any) -> Facts:
    """Selected settings of a baseline, for JSON."""
    keys = CHOSEN_PER_TRIAL if isinstance(model, TrialDecoder) else CHOSEN.get(name, ())
    found = model.chosen if name == "naive_bayes" else {key: getattr(model, key) for key in keys}

    found |= {"valid_r2": model.valid_r2}

    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in found.items()}
