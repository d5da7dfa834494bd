"""The baselines of a decoder, on its bins and its split."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ndt.baselines import Lagged, Ridge
from ndt.config import FinetuneConfig
from ndt.controls import fit_gated, fit_time_only, shifted_targets, shuffled_targets
from ndt.data.windows import Grid
from ndt.errors import InputError
from ndt.kalman import Kalman, fit_kalman
from ndt.naive_bayes import fit_naive_bayes
from ndt.pieces import Masks, labelled

if TYPE_CHECKING:
    from ndt.recurrent import Recurrent

__all__ = ["Baselines"]

Rows = NDArray[np.floating]
Facts = dict[str, Any]

CHOSEN = {  # what the facts say of each; naive Bayes says it itself
    "ridge": ("alpha", "num_lags"),
    "shuffled": ("alpha", "num_lags"),
    "shifted": ("alpha", "num_lags"),
    "wiener": ("num_lags",),
    "kalman": ("order", "lag_bins"),
    "recurrent": ("steps",),
    "ridge_gated": ("shrinkage",),
    "time_only": ("width_bins",),
}


@dataclass(frozen=True)
class Baselines:
    """What the baselines of one part decode at every bin. All are causal, and chosen on validation.

    - ``ridge``, ``wiener``: linear, on lagged counts; with a penalty, and with next to none.
    - ``kalman``: a linear model of how the target moves, and of counts given the target; not for classes.
    - ``naive_bayes``: Poisson counts given the target, over cells of its range.
    - ``recurrent``: a small gated recurrent network.
    - ``ridge_gated``: ridge times a gain for each bin since the piece began, which a clock could give.
    - ``time_only``: from the time since the piece began, without spikes.
    - ``shuffled``, ``shifted``: ridge fitted to labels in another order, or half a turn late: its R² must be near 0.

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
        grid: Grid,
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
            grid: The session's bins.
            kind: Of the part: ``continuous``, ``angle`` or ``class``.
            targets: The part's columns, NaN where unlabelled, (R, C).
            train: Bins to fit on, (R,).
            valid: Bins to choose on, (R,).
            config: Fine-tuning; uses `baselines`, `max_lag` and `seed`.
            counts: What ``grid.all_counts()`` returns, where it is at hand.
        """
        counts = grid.all_counts() if counts is None else counts
        data = _Data.cut(grid, counts, targets, train, valid, config.max_lag)
        models, facts = data.linear(
            ["ridge", *(n for n in ("shuffled", "shifted") if n in config.baselines)], config.seed
        )
        for name, fit in data.others(kind, models["ridge"], config.seed).items():
            if name not in config.baselines:
                continue
            begin = time.perf_counter()
            try:
                models[name] = fit()
                facts[name] = {"seconds": time.perf_counter() - begin}
            except (InputError, np.linalg.LinAlgError) as error:
                facts[name] = {"left_out": str(error)}
        decoded = {}
        for name, model in models.items():
            heard = {"time_only": (data.place,), "ridge_gated": (data.counts, data.place)}.get(name, (data.counts,))
            decoded[name] = np.concatenate(model.predict(*heard))
            facts[name] = _chosen(name, model) | facts.get(name, {})

        return cls(decoded, models, facts)


@dataclass(frozen=True)
class _Data:
    """What all are fitted on, cut into pieces."""

    counts: list[Any]
    targets: list[Any]
    train: Masks
    valid: Masks
    place: list[Any]
    bin_size: float
    lagged: Lagged

    @classmethod
    def cut(
        cls,
        grid: Grid,
        counts: Rows,
        targets: Rows,
        train: NDArray[np.bool_],
        valid: NDArray[np.bool_],
        max_lag_s: float,
    ) -> "_Data":
        edges = np.flatnonzero(np.diff(grid.piece)) + 1
        x, y, place = (list(np.split(a, edges)) for a in (counts, targets, grid.place))
        fit_on = labelled(y, np.split(train, edges), "train")
        choose_on = labelled(y, np.split(valid, edges), "valid")
        lagged = Lagged(x, fit_on, choose_on, bin_size=grid.bin_size, max_lag_s=max_lag_s)

        return cls(x, y, fit_on, choose_on, place, grid.bin_size, lagged)

    def linear(self, names: list[str], seed: int) -> tuple[dict[str, Any], dict[str, Facts]]:
        """Fits ridge, and to other labels the controls: they share their equations, and cost it next to nothing."""
        begin, y, rows = time.perf_counter(), self.targets, (self.train, self.valid)
        labels = {"ridge": y, "shuffled": shuffled_targets(y, *rows, seed), "shifted": shifted_targets(y, *rows)}
        models = self.lagged.ridge([labels[name] for name in names])

        return dict(zip(names, models, strict=True)), {"ridge": {"seconds": time.perf_counter() - begin}}

    def others(self, kind: str, ridge: Ridge, seed: int) -> dict[str, Callable[[], Any]]:
        """Returns how each of the others is fitted."""
        rows, bin_size = (self.counts, self.targets, self.train, self.valid), self.bin_size

        return {
            "wiener": lambda: self.lagged.wiener(self.targets),
            "kalman": lambda: _kalman(kind, *rows, bin_size=bin_size),
            "naive_bayes": lambda: fit_naive_bayes(*rows, bin_size=bin_size, kind=kind),
            "recurrent": lambda: _recurrent(*rows, bin_size=bin_size, kind=kind, seed=seed),
            "ridge_gated": lambda: fit_gated(ridge, self.counts, self.targets, self.valid, self.place),
            "time_only": lambda: fit_time_only(self.targets, self.train, self.valid, self.place),
        }


def _kalman(kind: str, *rows: Any, bin_size: float) -> Kalman:
    if kind == "class":
        raise InputError("Kalman filter", "kind", "something that moves", "classes")

    return fit_kalman(*rows, bin_size=bin_size)


def _recurrent(*rows: Any, **settings: Any) -> "Recurrent":
    from ndt.recurrent import fit_recurrent  # torch, which no other baseline needs

    return fit_recurrent(*rows, **settings)


def _chosen(name: str, model: Any) -> Facts:
    """What was chosen of a baseline, as it goes into JSON."""
    found = model.chosen if name == "naive_bayes" else {key: getattr(model, key) for key in CHOSEN[name]}

    return {k: None if v == float("inf") else v for k, v in (found | {"valid_r2": model.valid_r2}).items()}
