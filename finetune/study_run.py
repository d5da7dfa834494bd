"""Fine-tuning as one run of a study: trained once per folder, and read after that."""

import hashlib
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ndt.config import FinetuneConfig
from ndt.data.store import Store
from ndt.finetune import adapt
from ndt.model.architectures import load_model
from ndt.model.transformer import NDT
from ndt.reports.run_metrics import DecoderMetrics
from ndt.schema import typed
from ndt.train.studies import finish, sources

__all__ = ["finetuned"]


def finetuned(
    folder: Path,
    base: NDT | str | Path | None,
    session: str,
    target: str | None,
    store: str | Path | Store,
    config: FinetuneConfig,
) -> dict[str, Any]:
    """Fits a decoder unless the folder holds it, and returns the content of its metrics.json.

    Arguments:
        folder: Folder of the run.
        base: A pretrained model, or its run directory; None trains from scratch.
        session: Session id.
        target: Name of the target; None for a velocity or heading.
        store: The store of the session.
        config: Settings.
    """
    model = load_model(base) if isinstance(base, str | Path) else base
    store = store if isinstance(store, Store) else Store(store)
    weights = b"" if model is None else b"".join(v.cpu().numpy().tobytes() for v in model.state_dict().values())
    request = {
        "settings": asdict(config),
        "target": target,
        "data": sources(store.manifest, [session]),
        "base": hashlib.sha256(weights).hexdigest() if weights else None,
    }
    train = partial(adapt.finetune, model, session, target, config=config, store=store, progress=False)

    found = finish(folder, request, train)

    return typed(DecoderMetrics, found, folder / "metrics.json") if found else {}
