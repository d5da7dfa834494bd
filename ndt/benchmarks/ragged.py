"""Synthetic windows of very different lengths from several sessions, and models that train on them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ndt.config import PretrainConfig, load_config
from ndt.errors import InputError
from ndt.model.architectures import new_model
from ndt.model.checkpoint import ModelSpec
from ndt.model.likelihood import count_nll
from ndt.model.tokens import ACTIVITY, Batch, Window, pack
from ndt.model.transformer import NDT
from ndt.model.vocabulary import Vocabulary

__all__ = ["Ragged", "masked_loss", "preset", "ragged"]

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "pretrain"
BIN_SIZE, RATE_HZ = 0.02, 8.0
PATCH = 32  # units
PATCHES = range(3, 9)  # patches (tokens a bin) of each of six sessions


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """Windows of several sessions, half of their patches hidden.

    Arguments:
        windows: The windows.
        vocabulary: Rows of the sessions' units and contexts.
        units_per_patch: Units P of a patch.
    """

    windows: list[Window]
    vocabulary: Vocabulary
    units_per_patch: int

    @property
    def batch(self) -> Batch:
        """All windows, packed."""
        return pack(self.windows, self.units_per_patch)

    def model(self, config: PretrainConfig) -> NDT:
        """Returns a model of these sessions in training mode, with weights drawn from the seed of `config`."""
        torch.manual_seed(config.seed)  # modules initialise from the global generator
        length = max(len(w.counts) for w in self.windows)
        spec = ModelSpec(
            config=config.model, vocabulary=self.vocabulary, bin_size=BIN_SIZE, window_bins=length, data={}
        )
        return new_model(spec).train()


def preset(name: str) -> PretrainConfig:
    """Returns the settings of a file in configs/pretrain by its name, or of any other file by its path.

    Patches have at most 32 units, as NDT2's, so that windows have several tokens a bin.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml"))) or "a path: this installation has no presets"
        raise InputError("ndt bench", "preset", f"a YAML file or one of: {known}", name)

    config = load_config(PretrainConfig, path)

    return replace(config, model=replace(config.model, units_per_patch=min(config.model.units_per_patch, PATCH)))


def ragged(
    units_per_patch: int, *, sequences: int = 30, shortest: int = 50, longest: int = 1500, seed: int = 0
) -> Ragged:
    r"""Returns windows whose sequences have `shortest` to `longest` tokens, most of them short.

    .. math:: \ell_i = a + (b - a) \left(\tfrac{i}{n - 1}\right)^2, \qquad i = 0, \dots, n - 1

    in random order. Padded to the longest, they take 2.8 times their tokens. Long sequences have more tokens a bin. The
    last patch of each session is three quarters full.
    """
    rng, low = np.random.default_rng(seed), PATCHES[0]
    sizes = np.array([S * units_per_patch - units_per_patch // 4 for S in PATCHES])  # units of each session
    rows = np.split(np.arange(sizes.sum()), sizes.cumsum()[:-1])  # of the vocabulary
    windows = []
    for x in rng.permutation(np.linspace(0, 1, sequences) ** 2):
        i = round((len(PATCHES) - 1) * float(x))
        S, N = PATCHES[i], int(sizes[i])
        T = max(round((shortest + (longest - shortest) * float(x)) / S), 1)
        hidden = (np.arange(T * S) < T * S // 2)[rng.permutation(T * S)].reshape(T, S)
        hidden = np.repeat(hidden, units_per_patch, axis=1)[:, :N]
        counts = rng.poisson(RATE_HZ * BIN_SIZE, (T, N)).astype(np.uint8)
        activity = np.zeros((N, len(ACTIVITY)), np.float32)
        activity[:, 0] = RATE_HZ * BIN_SIZE
        context = np.array([i, len(PATCHES), len(PATCHES) + 1])
        window = Window(counts=counts, valid=np.ones((T, N), bool), unit=rows[i], context=context, hidden=hidden)
        windows.append(replace(window, activity=activity))
    names = (*(f"session:{S}" for S in PATCHES), "subject:a", "task:a")
    units = tuple(f"{low + i}/{n}" for i, N in enumerate(sizes) for n in range(N))

    return Ragged(windows=windows, vocabulary=Vocabulary(units, names), units_per_patch=units_per_patch)


def masked_loss(model: torch.nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Returns the Poisson negative log-likelihood of the hidden counts, mean over units and bins."""
    return count_nll(model(batch).log_rates, batch) / batch.hidden.sum()
