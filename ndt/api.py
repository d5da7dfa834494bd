"""The verbs, for Python: what the command line does, with objects in and out."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ndt.config import FinetuneConfig, IngestConfig, PretrainConfig, SimulateConfig, load_config
from ndt.embed import Embeddings

if TYPE_CHECKING:
    from ndt.data.store import Store
    from ndt.data.synthetic import Simulated
    from ndt.finetune.adapt import Decoder
    from ndt.model import NDT
    from ndt.session import Session

__all__ = [
    "Embeddings",
    "embed",
    "evaluate",
    "finetune",
    "ingest",
    "inspect",
    "pretrain",
    "read",
    "recipe",
    "report",
    "simulate",
]

Config = TypeVar("Config")


def _configured(kind: type[Config], config: Config | str | Path | None) -> Config:
    return load_config(kind, config) if isinstance(config, str | Path) else config or kind()


def simulate(out: str | Path, config: SimulateConfig | str | Path | None = None) -> "list[Simulated]":
    """Writes NWB files of a simulated population with known truth; see `ndt.data.synthetic.simulate`."""
    from ndt.data.synthetic import simulate

    return simulate(Path(out), _configured(SimulateConfig, config))


def inspect(
    files: str | Path | Sequence[str | Path],
    config: IngestConfig | str | Path | None = None,
    *,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Returns what would be ingested and dropped of recordings, and writes pages; see `ndt.data.inspect.inspect`."""
    from ndt.data.inspect import inspect

    return inspect(files, _configured(IngestConfig, config), out)


def read(source: str | Path, config: IngestConfig | str | Path | None = None) -> "Session":
    """Reads one recording; see `ndt.data.read.read`."""
    from ndt.data.read import read

    return read(source, _configured(IngestConfig, config))


def recipe(name: str | Path) -> IngestConfig:
    """Returns the settings of a public data set, by name, or of a file like those; see `ndt.data.recipes`."""
    from ndt.data.recipes import load_recipe

    return load_recipe(name).ingest


def ingest(
    files: "str | Path | Session | Sequence[str | Path | Session]",
    out: str | Path,
    config: IngestConfig | str | Path | None = None,
    *,
    progress: bool = True,
) -> "Store":
    """Ingests recordings into a store; see `ndt.data.ingest.ingest`."""
    from ndt.data.ingest import ingest

    return ingest(files, out, _configured(IngestConfig, config), progress=progress)


def pretrain(
    store: "str | Path | Store",
    *,
    out: str | Path,
    config: PretrainConfig | str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> "NDT":
    """Pretrains a model; see `ndt.pretrain.train.pretrain`."""
    from ndt.pretrain.train import pretrain

    return pretrain(store, out, _configured(PretrainConfig, config), resume=resume, progress=progress)


def finetune(
    base: "NDT | str | Path | None",
    session: str,
    covariate: str | None = None,
    *,
    out: str | Path,
    config: FinetuneConfig | str | Path | None = None,
    store: "str | Path | Store | None" = None,
    resume: bool = False,
    progress: bool = True,
) -> "Decoder":
    """Fine-tunes a decoder; see `ndt.finetune.adapt.finetune`."""
    from ndt.finetune.adapt import finetune

    configured = _configured(FinetuneConfig, config)

    return finetune(base, session, covariate, out=out, config=configured, store=store, resume=resume, progress=progress)


def decoder_of(
    base: "NDT | str | Path | None",
    session: str,
    covariate: str | None,
    *,
    out: Path,
    config: FinetuneConfig,
    store: "str | Path | Store | None",
    resume: bool,
    curve: tuple[float, ...],
    search: int,
    space: str | None,
    seeds: int,
    workers: int,
    progress: bool,
) -> dict[str, Any]:
    """Fine-tunes once, or searches settings first, or draws the curve of labels; returns what the run's files say."""
    from ndt.checkpoint import read_json
    from ndt.finetune.adapt import finetune
    from ndt.finetune.curve import label_curve
    from ndt.finetune.search import search as search_settings
    from ndt.studies import departed

    options: dict[str, Any] = {"out": out, "store": store, "progress": progress}
    many: dict[str, Any] = {"seeds": seeds, "workers": workers}
    if search:
        record = search_settings(base, session, covariate, config=config, space=space, trials=search, **many, **options)
        config = departed(config, record.settings, "search", "winner")
    if curve:
        label_curve(base, session, covariate, config=config, seconds=curve, **many, **options)
    if not (search or curve):
        finetune(base, session, covariate, config=config, resume=resume, **options)
    else:
        report(out)
    names = {"metrics.json": not curve or bool(search), "search.json": bool(search), "curve.json": bool(curve)}
    found: dict[str, Any] = {}
    for name, there in names.items():
        if there:
            known = read_json(out / name)
            found |= known if name == "metrics.json" else {name.removesuffix(".json"): known}

    return found


def evaluate(
    run: str | Path,
    session: str | None = None,
    *,
    store: "str | Path | Store | None" = None,
    block: str | None = None,
    mask: str = "",
) -> dict[str, Any]:
    """Scores a decoder on any session; see `ndt.finetune.evaluate.evaluate`."""
    from ndt.finetune.evaluate import evaluate

    return evaluate(run, session, store=store, block=block, mask=mask)


def embed(base: "NDT | str | Path", session: str, *, store: "str | Path | Store | None" = None) -> Embeddings:
    """Returns one latent per bin of a session's observed time, causal: later spikes change nothing before them.

    Units and contexts that the model does not know start at the mean of those it knows.

    Arguments:
        base: A model, or its run directory or Hub name.
        session: Session id.
        store: The store; by default the one that the model was trained on.
    """
    import numpy as np

    from ndt import __version__
    from ndt.architectures import load_model
    from ndt.data.store import Store
    from ndt.data.windows import TRAIN, Grid
    from ndt.errors import InputError
    from ndt.inference import per_bin
    from ndt.model import NDT

    model = base if isinstance(base, NDT) else load_model(base)
    store = store or model.store
    if store is None:
        raise InputError("embed", "store", "a store, since the model does not know its own", "none")
    if not model.spec.encodes:
        expected = "a pretrained model, or one from scratch whose decoder reads latents (model.covariates=convolved)"
        raise InputError("embed", "model", expected, "a decoder of counts, whose encoder was never trained")
    recording = (store if isinstance(store, Store) else Store(store)).session(session)
    spec = replace(model.spec, vocabulary=model.vocabulary.extend([recording]))
    grid = Grid(recording, spec.bin_size, spec.window_bins * spec.bin_size)
    rows = spec.vocabulary.rows(recording)
    own = model.covariate is not None and next(reversed(spec.data), None) == session
    if spec != model.spec or not own:  # a decoder keeps the mean counts that it was calibrated with, on its own session
        model = model.extended(spec).eval()
        model.observe(rows.unit, grid.mean_counts(grid.block == TRAIN)[rows.order])
    windows = grid.cover(np.ones(len(grid), bool), spec.window_bins, rows)
    digest = hashlib.sha256(b"".join(v.detach().cpu().numpy().tobytes() for v in model.state_dict().values()))
    options = {
        "session": session,
        "model_sha256": digest.hexdigest(),
        "bin_size": spec.bin_size,
        "window_bins": spec.window_bins,
        "version": __version__,
    }

    return Embeddings(
        latents=per_bin(model, windows, model.latents, len(grid)),
        time=grid.start + spec.bin_size / 2,
        piece=grid.piece,
        options=options,
        source=str(recording.source.get("path", "")),
    )


def report(run: str | Path, store: str | Path | None = None) -> Path:
    """Writes the page of a run; see `ndt.report.write_report`."""
    from ndt.report import write_report

    return write_report(Path(run), Path(store) if store else None)
