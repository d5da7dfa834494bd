"""Problems with known answers: slow references, and small recordings and models made in memory."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ndt.config import ModelConfig
from ndt.data.activity import unit_activity
from ndt.data.windows import TRAIN, BinnedSession, TrainingData
from ndt.intervals import Intervals
from ndt.model.architectures import new_model
from ndt.model.attention_patterns import CONTEXT, AttentionPattern
from ndt.model.checkpoint import ModelSpec, TargetSpec
from ndt.model.tokens import ACTIVITY, Window
from ndt.model.transformer import NDT
from ndt.model.vocabulary import Vocabulary
from ndt.session import Covariate, Session, Spikes, Units
from ndt.target import Part

TINY = ModelConfig(
    architecture="ndt",
    width=16,
    num_layers=3,  # the third attends over space
    num_decoder_layers=2,
    num_heads=2,
    units_per_patch=3,
    unit_width=8,
    num_stem_layers=2,
    locality_bias=2.0,
    causal=True,
    attention_window=0,
    feedforward=2,
    dropout=0.0,
    drop_path=0.0,
    count_dropout=0.0,
)  # every choice stated: defaults move
NDT2 = replace(TINY, architecture="ndt2", width=24)


def reads(pattern: AttentionPattern) -> Tensor:
    """Which of a route's queries read which of its keys, both as its sequences lay them out: (Q, K), pair by pair.

    ``full``: all keys of its sequence. ``causal``: as many keys fewer as there are queries after it. ``time``: context
    tokens; and data, if it is data itself and they are not later. Within reach, all.
    """
    found = torch.zeros(len(pattern.queries.time), len(pattern.keys.time), dtype=torch.bool)
    at = begin = 0
    for n, m in zip(pattern.queries.lengths.tolist(), pattern.keys.lengths.tolist(), strict=True):
        for i in range(n):
            t = int(pattern.queries.time[at + i])
            for j in range(m):
                s = int(pattern.keys.time[begin + j])
                by_time = s == CONTEXT or (t != CONTEXT and s <= t)
                may = {"full": True, "causal": m - j >= n - i, "time": by_time}[pattern.mask]
                found[at + i, begin + j] = may and (
                    not pattern.attention_window or s == CONTEXT or s > t - pattern.attention_window
                )
        at, begin = at + n, begin + m

    return found


def slow_attention(q: Tensor, k: Tensor, v: Tensor, pattern: AttentionPattern) -> Tensor:
    """Attention by the definition, one query after another, in float64."""
    rows_q, rows_k = (
        torch.arange(len(x)) if s.rows is None else s.rows for s, x in ((pattern.queries, q), (pattern.keys, k))
    )
    out: list[Tensor] = [torch.zeros_like(q[0], dtype=torch.float64)] * len(q) if len(q) else []
    for row, seen in zip(rows_q.tolist(), reads(pattern), strict=True):
        keys = rows_k[seen]
        score = torch.einsum("he,mhe->hm", q[row].double(), k[keys].double()) * q.shape[-1] ** -0.5
        out[row] = torch.einsum("hm,mhe->he", score.softmax(-1), v[keys].double())

    return torch.stack(out) if out else q.double()


def recording(
    observed: Sequence[tuple[float, float]] = ((0.0, 30.0),),
    *,
    labels: tuple[float, float] | None = None,
    num_units: int = 5,
    rate_hz: float = 10.0,
    unit_observed: Intervals | None = None,
    name: str = "sub-a_ses-1",
    seed: int = 0,
) -> Session:
    """A recording of Poisson units with a two-dimensional covariate ``vel`` at 20 Hz.

    Its spikes are those of units ``a/0 …``, listed in an order other than that of their names. Labels span all observed
    time unless told otherwise; an empty span leaves them out.
    """
    rng = np.random.default_rng(seed)
    segments = Intervals(*np.array(observed, float).reshape(-1, 2).T)
    end = float(segments.end.max()) if len(segments) else 0.0
    times = np.sort(rng.uniform(0, end, rng.poisson(rate_hz * num_units * end)))
    times = times[segments.contains(times)]
    a, b = labels or (float(segments.start.min()), end)
    stamps = np.arange(a, b, 0.05) + 0.025
    values = np.stack([np.sin(stamps), np.cos(0.7 * stamps)], 1)
    series = Covariate(
        name="vel", path="processing/behavior/vel", timestamps=stamps, values=values, dims=("x", "y"), unit="m/s"
    )

    return Session(
        session_id=name,
        subject="a",
        spikes=Spikes(timestamps=times, unit_index=rng.integers(num_units, size=len(times))),
        units=Units(id=np.array([f"a/{n}" for n in rng.permutation(num_units)]), observed=unit_observed),
        observed=segments,
        covariates={"vel": series} if len(stamps) > 1 else {},
    )


def permuted(session: Session, order: np.ndarray) -> Session:
    """The same recording, its units listed in another order."""
    place = np.argsort(order)
    rows = session.units.observed
    if rows is not None:
        rows = Intervals(rows.start, rows.end, {"unit_index": place[rows.columns["unit_index"]]})

    return Session(
        **{
            **vars(session),
            "spikes": Spikes(timestamps=session.spikes.timestamps, unit_index=place[session.spikes.unit_index]),
            "units": Units(id=session.units.id[order], observed=rows),
        }
    )


def specification(
    sessions: Sequence[Session],
    *,
    config: ModelConfig = TINY,
    dims: int = 2,
    bin_size: float = 0.05,
    window_bins: int = 20,
) -> ModelSpec:
    """A specification that knows these sessions and decodes `dims` dimensions, if any."""
    target = None
    if dims:
        names = ("x", "y", "z")[:dims]
        parts = (Part(name="vel", kind="continuous", dims=names, unit="m/s"),)
        target = TargetSpec(name="vel", dims=names, unit="m/s", mean=(1.0,) * dims, std=(2.0,) * dims, parts=parts)

    return ModelSpec(
        config=config,
        vocabulary=Vocabulary().extend(sessions),
        bin_size=bin_size,
        window_bins=window_bins,
        target=target,
    )


def busy_model(spec: ModelSpec, seed: int = 0) -> NDT:
    """A model whose every weight is drawn at random: some begin at zero, and would hide what flows through them."""
    generator = torch.Generator().manual_seed(seed)
    model = new_model(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.3 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)

    return model.eval()


def random_activity(mean_counts: Sequence[float] | np.ndarray, seed: int = 0) -> np.ndarray:
    """Measures of the activity of units with these mean counts per bin, drawn at random but for those, (N, A)."""
    activity = np.random.default_rng(seed).standard_normal((len(mean_counts), len(ACTIVITY)))
    activity[:, 0] = mean_counts

    return activity.astype(np.float32)


def with_means(model: NDT, mean_counts: Sequence[float] | np.ndarray) -> NDT:
    """Sets the activity of all units that the model knows, with these mean counts, in the order of its table's rows."""
    if model.KNOWS_UNITS:
        model.identity.activity.copy_(torch.from_numpy(random_activity(mean_counts)))

    return model


def random_window(
    T: int, N: int, rng: np.random.Generator, *, absent: float = 0.2, hidden: float = 0.4, patch: int = 3, dims: int = 2
) -> Window:
    """A window of random counts, some invalid; whole patches are hidden, and a few entries by themselves."""
    whole = np.repeat(rng.random((T, -(-N // patch))) < hidden, patch, axis=1)[:, :N]

    return Window(
        counts=rng.poisson(1.5, (T, N)).astype(np.uint8),
        valid=rng.random((T, N)) >= absent,
        unit=np.arange(N),
        context=np.arange(3),
        hidden=whole | (rng.random((T, N)) < hidden / 4),
        target=rng.standard_normal((T, dims)).astype(np.float32),
        index=(0, T),
    )


def training_data(binned: BinnedSession, spec: ModelSpec, labels: np.ndarray | None = None) -> TrainingData:
    """The training split of a session, and labels of the specification's target, standardised."""
    chosen = binned.split == TRAIN
    rows = spec.vocabulary.rows(binned.session, tuple(part.per for part in spec.parts))

    return TrainingData(binned, chosen, rows, unit_activity(binned, chosen), labels)


def grid_of(session: Session, bin_size: float = 0.05, guard: float = 1.0) -> BinnedSession:
    """The bins of a session."""
    return BinnedSession(session, bin_size, guard)
