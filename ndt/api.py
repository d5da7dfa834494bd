"""Python functions of the verbs that combine packages; `ndt` re-exports them with the verbs of single packages."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ndt.config import IngestConfig

if TYPE_CHECKING:
    from ndt.data.store import Store
    from ndt.model.inference import Embeddings
    from ndt.model.transformer import NDT

__all__ = ["embed", "recipe", "report"]


def recipe(name: str | Path) -> IngestConfig:
    """Returns the ingestion settings of a public data set, by name, or of a YAML file; see `ndt.data.recipes`."""
    from ndt.data.recipes import load_recipe

    return load_recipe(name).ingest


def embed(base: "NDT | str | Path", session: str, *, store: "str | Path | Store | None" = None) -> "Embeddings":
    """Returns one causal latent per bin of a session's observed time.

    Units that the model does not know are known by their activity in the training split.

    Arguments:
        base: A model, its run directory, or hf:ORG/NAME.
        session: Session id.
        store: The store; by default the one that the model was trained on.
    """
    import numpy as np

    from ndt import __version__
    from ndt.data.activity import unit_activity
    from ndt.data.store import open_store
    from ndt.data.windows import TRAIN, BinnedSession
    from ndt.model.architectures import load_model
    from ndt.model.inference import Embeddings, per_bin
    from ndt.model.transformer import NDT

    model = base if isinstance(base, NDT) else load_model(base)
    recording = open_store(store or model.store, "embed").session(session)
    spec = replace(model.spec, vocabulary=model.vocabulary.extend([recording]))
    binned = BinnedSession(recording, spec.bin_size, spec.window_bins * spec.bin_size)
    model = model.extended(spec).eval()
    model.observe(recording, unit_activity(binned, binned.split == TRAIN))
    windows = binned.cover(np.ones(len(binned), bool), spec.window_bins, model.rows(recording))
    digest = hashlib.sha256(b"".join(v.detach().cpu().numpy().tobytes() for v in model.state_dict().values()))
    made = {"session": session, "model_sha256": digest.hexdigest(), "version": __version__}

    return Embeddings(
        latents=per_bin(model, windows, model.latents, len(binned)),
        time=binned.start + spec.bin_size / 2,
        segment=binned.segment,
        options=made | {"bin_size": spec.bin_size, "window_bins": spec.window_bins},
        source=str(recording.source.get("path", "")),
    )


def report(run: str | Path, store: str | Path | None = None) -> Path:
    """Writes the report of a run; see `ndt.reports.run.write_report`.

    Arguments:
        run: Run directory.
        store: Store of the sessions; by default the run's own.
    """
    from ndt.data.store import Store
    from ndt.reports.run import run_store, write_report

    path = store or run_store(Path(run))

    return write_report(Path(run), Store(path) if path else None)
