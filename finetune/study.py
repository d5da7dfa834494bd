"""Many decoders of one session from one model: what label curves and searches share."""

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.architectures import load_model
from ndt.checkpoint import ModelSpec
from ndt.config import FinetuneConfig
from ndt.data.store import Store
from ndt.errors import InputError
from ndt.finetune.adapt import finetune
from ndt.model import NDT
from ndt.studies import finish, sources

__all__ = ["Study"]


@dataclass(frozen=True, kw_only=True)
class Study:
    """What its runs share. It goes to other processes, so that it holds a path where it can.

    Arguments:
        base: The pretrained model, as it was given; None for networks from scratch.
        session: Session id.
        covariate: Name of the covariate, as it was given.
        store: The store.
        spec: Of the pretrained model.
        origin: SHA-256 of its weights.
    """

    base: NDT | str | Path | None
    session: str
    covariate: str | None
    store: Store
    spec: ModelSpec | None
    origin: str | None

    @classmethod
    def opened(
        cls,
        base: NDT | str | Path | None,
        session: str,
        covariate: str | None,
        store: str | Path | Store | None,
        out: Path,
    ) -> "Study":
        """Returns the study of these.

        Raises:
            InputError: if `out` is the base model's own folder, or there is no store.
        """
        if isinstance(base, str | Path) and Path(base).resolve() == out.resolve():
            raise InputError(out, "out", "another folder than the base model's", "the same")
        model = load_model(base) if isinstance(base, str | Path) else base
        found = store or (model.store if model is not None else None)
        if found is None:
            raise InputError("finetune", "store", "a store, since the model does not know its own", "none")
        opened = found if isinstance(found, Store) else Store(found)
        opened.session(session)  # an unknown one shows now, and not in a process of its own
        origin, spec = (None, None) if model is None else (_digest(model), model.spec)

        return cls(base=base, session=session, covariate=covariate, store=opened, spec=spec, origin=origin)

    def window(self, config: FinetuneConfig) -> float:
        """Returns the length of the longest window in seconds: the base model's, or that of the settings."""
        return config.window if self.spec is None else self.spec.window_bins * self.spec.bin_size

    def fit(
        self, folder: Path, config: FinetuneConfig, *, scratch: bool = False, test: bool = True, **options: Any
    ) -> dict[str, Any]:
        """Returns metrics of one decoder, which is fitted as far as `folder` does not have it.

        Arguments:
            folder: Run directory.
            config: Settings.
            scratch: Whether to leave out pretraining: the base model's architecture, bins and window, new weights.
            test: Whether to score the test block, which is not decoded otherwise.
            options: Of `ndt.studies.finish`, and ``progress``.
        """
        base, spec = self.base, self.spec
        if scratch and spec is not None:
            window = spec.bin_size * spec.window_bins
            config = replace(config, model=spec.config, bin_size=spec.bin_size, window=window)
            base = None
        asked = {
            "settings": asdict(config),
            "covariate": self.covariate,
            "data": sources(self.store, [self.session]),
            "base": None if base is None else self.origin,
            "test": test,
        }
        train = partial(
            finetune, base, self.session, self.covariate,
            config=config, store=self.store, test=test, progress=options.pop("progress", False),
        )  # fmt: skip

        return finish(folder, asked, train, **options)


def _digest(model: NDT) -> str:
    weights = (v.detach().cpu().numpy().tobytes() for v in model.state_dict().values())

    return hashlib.sha256(b"".join(weights)).hexdigest()
