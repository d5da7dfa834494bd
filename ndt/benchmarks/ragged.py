"""Synthetic windows of very different lengths, of several sessions, and the models that train on them."""

from dataclasses import dataclass
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
from ndt.model.tokens import Batch, Window, pack
from ndt.model.transformer import NDT
from ndt.model.vocabulary import Vocabulary

__all__ = ["Ragged", "masked_loss", "preset", "ragged"]

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "pretrain"
BIN_SIZE, RATE_HZ = 0.02, 8.0
PATCHES = (3, 8)  # tokens a bin of the session with the fewest units, and of that with the most


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
        """Returns a model in training that knows these sessions; its weights are drawn from a seed."""
        torch.manual_seed(config.seed)  # modules initialise from the global generator
        window_bins = max(len(w.counts) for w in self.windows)
        spec = ModelSpec(
            config=config.model, vocabulary=self.vocabulary, bin_size=BIN_SIZE, window_bins=window_bins, data={}
        )
        model = new_model(spec).train()
        model.mean_counts.fill_(RATE_HZ * BIN_SIZE)

        return model


def preset(name: str) -> PretrainConfig:
    """Returns the settings of a preset, by the name of its file in configs/pretrain, or by the path of any other."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml"))) or "a path: this installation has no presets"
        raise InputError("ndt bench", "preset", f"a YAML file or one of: {known}", name)

    return load_config(PretrainConfig, path)


def ragged(
    units_per_patch: int, *, sequences: int = 30, shortest: int = 50, longest: int = 1500, seed: int = 0
) -> Ragged:
    r"""Returns windows whose sequences have `shortest` to `longest` tokens, most of them short.

    .. math:: \ell_i = a + (b - a) \left(\tfrac{i}{n - 1}\right)^2, \qquad i = 0, \dots, n - 1

    in random order. Padded to the longest, they take 2.8 times their tokens. Long sequences have more tokens a bin: six
    sessions have 3 to 8 patches, the last patch of each only three quarters full.
    """
    rng = np.random.default_rng(seed)
    low, high = PATCHES
    sizes = {S: S * units_per_patch - units_per_patch // 4 for S in range(low, high + 1)}  # units, by patches
    rows = dict(zip(sizes, np.split(np.arange(sum(sizes.values())), np.cumsum(list(sizes.values()))[:-1]), strict=True))
    share = np.linspace(0, 1, sequences) ** 2
    windows = []
    for x in rng.permutation(share):
        S = low + round((high - low) * float(x))
        T = max(round((shortest + (longest - shortest) * float(x)) / S), 1)
        hidden = (np.arange(T * S) < T * S // 2)[rng.permutation(T * S)].reshape(T, S)
        counts = rng.poisson(RATE_HZ * BIN_SIZE, (T, sizes[S])).astype(np.uint8)
        context = np.array([S - low, high - low + 1, high - low + 2])
        valid = np.ones(counts.shape, bool)
        hidden = np.repeat(hidden, units_per_patch, axis=1)[:, : sizes[S]]
        windows.append(Window(counts=counts, valid=valid, unit=rows[S], context=context, hidden=hidden))
    names = (*(f"session:{S}" for S in sizes), "subject:a", "task:a")
    units = tuple(f"{S}/{n}" for S, N in sizes.items() for n in range(N))

    return Ragged(windows=windows, vocabulary=Vocabulary(units, names), units_per_patch=units_per_patch)


def masked_loss(model: torch.nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Returns the Poisson likelihood of what is hidden, a unit and bin."""
    prediction = model(batch)

    return count_nll(prediction.log_rates, batch) / batch.hidden.sum()
