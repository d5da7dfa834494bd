"""The baselines of a decoder, on its bins and its split."""

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
from ndt.decoders.naive_bayes import fit_naive_bayes
from ndt.decoders.ridge import Lagged
from ndt.errors import InputError
from ndt.segments import labelled

if TYPE_CHECKING:
    from ndt.decoders.gru import GRU

__all__ = ["Baselines"]

Rows = NDArray[np.floating]
Facts = dict[str, Any]

CHOSEN = {  # what the facts say of each; naive Bayes says it itself
    "ridge": ("alpha", "num_lags"),
    "block_permuted": ("alpha", "num_lags"),
    "circularly_shifted": ("alpha", "num_lags"),
    "wiener": ("num_lags",),
    "kalman": ("order", "lag_bins"),
    "gru": ("steps",),
    "ridge_time_gain": ("shrinkage",),
    "time_only": ("width_bins",),
}


@dataclass(frozen=True)
class Baselines:
    """What the baselines of one part decode at every bin. All are causal, and chosen on validation.

    - ``ridge``, ``wiener``: linear, on lagged counts; with a penalty, and with next to none.
    - ``kalman``: a linear model of how the target moves, and of counts given the target; not for classes.
    - ``naive_bayes``: Poisson counts given the target, over cells of its range.
    - ``gru``: a small gated recurrent network.
    - ``ridge_time_gain``: ridge times a gain for each bin since the segment began, which a clock could give.
    - ``time_only``: from the time since the segment began, without spikes.
    - ``block_permuted``, ``circularly_shifted``: ridge fitted to labels in another order, or half a turn late: its R² must be near 0.

    Arguments:
        decoded: By name, (R, C).
        fitted: The fitted decoders, by name.
        facts: By name, what was chosen (None for infinite), ``valid_r2`` (on validation bins, by which it was chosen)
            and ``seconds`` to fit, the two controls' with ridge's; of one that could not be fitted,
            ``left_out``: why.
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
    ) -> "Baselines":
        """Fits ridge, and what else ``config.baselines`` names, on the training bins; chooses on the validation bins.

        Arguments:
            binned: The session's bins.
            kind: Of the part: ``continuous``, ``angle`` or ``class``.
            targets: The part's columns, NaN where unlabelled, (R, C).
            train: Bins to fit on, (R,).
            valid: Bins to choose on, (R,).
            config: Fine-tuning; uses `baselines`, `max_lag` and `seed`.
            counts: What ``binned.all_counts()`` returns, where it is at hand.
        """
        counts = binned.all_counts() if counts is None else counts
        edges = np.flatnonzero(np.diff(binned.segment)) + 1
        x, y, place, *masks = (list[Any](np.split(a, edges)) for a in (counts, targets, binned.place, train, valid))
        rows = labelled(y, masks[0], "train"), labelled(y, masks[1], "valid")
        begin = time.perf_counter()
        lagged = Lagged(x, *rows, bin_size=binned.bin_size, max_lag_s=config.max_lag)
        # The controls share ridge's equations, and cost it next to nothing.
        labels: dict[str, list[Any]] = {"ridge": y}
        if "block_permuted" in config.baselines:
            labels["block_permuted"] = block_permuted_targets(y, *rows, config.seed)
        if "circularly_shifted" in config.baselines:
            labels["circularly_shifted"] = circularly_shifted_targets(y, *rows)
        models: dict[str, Any] = dict(zip(labels, lagged.ridge(list(labels.values())), strict=True))
        facts: dict[str, Facts] = {"ridge": {"seconds": time.perf_counter() - begin}}
        own: dict[str, Any] = {"bin_size": binned.bin_size, "kind": kind}
        fits: dict[str, Callable[[], Any]] = {
            "wiener": lambda: lagged.wiener(y),
            "kalman": lambda: _kalman(x, y, *rows, **own),
            "naive_bayes": lambda: fit_naive_bayes(x, y, *rows, **own),
            "gru": lambda: _recurrent(x, y, *rows, seed=config.seed, **own),
            "ridge_time_gain": lambda: fit_time_gain(models["ridge"], x, y, rows[1], place),
            "time_only": lambda: fit_time_only(y, *rows, place),
        }
        for name in [name for name in fits if name in config.baselines]:
            begin = time.perf_counter()
            try:
                models[name] = fits[name]()
                facts[name] = {"seconds": time.perf_counter() - begin}
            except (InputError, np.linalg.LinAlgError) as error:
                facts[name] = {"left_out": str(error)}
        decoded = {}
        for name, model in models.items():
            heard = {"time_only": (place,), "ridge_time_gain": (x, place)}.get(name, (x,))
            decoded[name] = np.concatenate(model.predict(*heard))
            facts[name] = _chosen(name, model) | facts.get(name, {})

        return cls(decoded, models, facts)


def _kalman(*rows: Any, bin_size: float, kind: str) -> Kalman:
    if kind == "class":
        raise InputError("Kalman filter", "kind", "something that moves", "classes")

    return fit_kalman(*rows, bin_size=bin_size)


def _recurrent(*rows: Any, **settings: Any) -> "GRU":
    from ndt.decoders.gru import fit_gru  # torch, which no other baseline needs

    return fit_gru(*rows, **settings)


def _chosen(name: str, model: Any) -> Facts:
    """What was chosen of a baseline, as it goes into JSON."""
    found = model.chosen if name == "naive_bayes" else {key: getattr(model, key) for key in CHOSEN[name]}

    return {k: None if v == float("inf") else v for k, v in (found | {"valid_r2": model.valid_r2}).items()}
