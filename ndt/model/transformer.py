"""The transformer: patches and context tokens in, latents out, from which heads read rates and targets.

It is derived from Ye, Collinger, Wehbe, Gaunt (2023), "Neural Data Transformer 2", NeurIPS, whose model is
`ndt.model.ndt2.NDT2`; DECISIONS.md gives the reason for each difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from ndt.config import ModelConfig
from ndt.errors import InputError
from ndt.model.attention_patterns import CONTEXT, PackedLayout, packed_layout
from ndt.model.checkpoint import ModelSpec, find_model, load_weights, read_spec, save_weights, write_json
from ndt.model.heads import RateHead, TargetHeads
from ndt.model.identity import Population, UnitIdentity
from ndt.model.layers import Block
from ndt.model.stem import Stem
from ndt.model.tokens import Batch
from ndt.model.vocabulary import CONTEXT_KINDS, Rows, Vocabulary
from ndt.parsing import read_store
from ndt.session import Session

__all__ = ["LATE", "NDT", "RESIDUALS", "TABLES", "Encoded", "PositionalEmbedding", "Prediction"]

RESIDUALS = ("identity.residual", "context")  # a row for each unit and context, from zero
LATE = 2  # layers of the encoder that tokens without a visible entry pass through
TABLES = (*RESIDUALS, "identity.site")  # parameters with one row for each name in the vocabulary

# B = windows, L = tokens, W = tokens to be predicted, K = context tokens of all windows, P = units of a patch,
# U = units of the batch, A = measures of activity, D = width, R = bins, C = target columns, V = target and auxiliary
# columns


class PositionalEmbedding(nn.Module):
    """Embeds a token's slot by sinusoids, for any number of slots; time is embedded by rotation (`ndt.model.layers`).

    Arguments:
        config: Architecture; uses `width`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        self.wave = nn.Linear(16, config.width)
        nn.init.normal_(self.wave.weight, std=0.02)  # small, so that after a norm content dominates position
        nn.init.zeros_(self.wave.bias)

    def forward(self, time: Int[Tensor, " L"], slot: Int[Tensor, " L"]) -> Float[Tensor, "L D"]:
        """Returns one embedding for each token."""
        octave = 2.0 ** -torch.arange(8, device=slot.device)
        phase = slot[:, None] * octave * torch.pi / 2

        return self.wave(torch.cat([phase.sin(), phase.cos()], dim=-1))


class Prediction(NamedTuple):
    """Outputs of the model for a batch; None if not requested, or without a target.

    Arguments:
        log_rates: Log spikes per bin of the units of the tokens to be predicted (`Batch.predicted`), (W, P).
        decoded: Standardised target, and auxiliary targets, at all bins, (R, V).
    """

    log_rates: Tensor | None
    decoded: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Outputs of the encoder for a batch.

    Arguments:
        tokens: Latents of the encoded tokens, shape (M, D).
        chosen: Which of the batch's tokens were encoded, shape (L,).
        population: The batch's units; None for an architecture without unit vectors.
    """

    tokens: Float[Tensor, "M D"]
    chosen: Bool[Tensor, " L"]
    population: Population | None = None


class NDT(nn.Module):
    """Neural Data Transformer over patches of units.

    Four steps: (1) `UnitIdentity` gives each unit a vector; (2) the `Stem` turns counts into tokens, one for each patch
    and bin, from visible entries alone; (3) the causal encoder transforms them, with context tokens of session, subject
    and task before each window; (4) heads read rates, and the target's parts, from the latents.

    Arguments:
        spec: Architecture, names of the rows of its tables, and the target.
    """

    ARCHITECTURE: ClassVar[str] = "ndt"  # its name in settings
    ORDER: ClassVar[str] = "axial"  # of the attention patterns, see `ndt.model.attention_patterns`
    KNOWS_UNITS: ClassVar[bool] = True  # whether units have vectors; else a session needs the units of pretraining
    SHARED_MASK: ClassVar[bool] = False  # whether one mask is drawn for all windows of a batch
    UNDECODED: ClassVar[float] = 0.0  # seconds at the start of a window without a decoding loss
    R2_BINS: ClassVar[int | None] = None  # validation R² is averaged over segments of this many bins; None: one R²

    residual_dropout: float = 0.0  # probability that the residual of a context is left out; pretraining sets it
    kind_of_context: Tensor
    position: nn.Module
    rates: nn.Module

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()

        self.spec = spec
        self.store: Path | None = None  # store of the sessions that it was trained on, if known
        c, names = spec.config, spec.vocabulary.contexts
        self.identity = UnitIdentity(c, spec.vocabulary)
        self.context = nn.Parameter(torch.zeros(len(names), c.width))
        self.context_kind = nn.Parameter(0.02 * torch.randn(len(CONTEXT_KINDS), c.width))
        kinds = [CONTEXT_KINDS.index(name.partition(":")[0]) for name in names]
        self.register_buffer("kind_of_context", torch.tensor(kinds, dtype=torch.long), persistent=False)
        self._build(spec)

    def _build(self, spec: ModelSpec) -> None:
        """Adds the modules of steps 2 to 4."""
        c = spec.config
        self.stem, self.position = Stem(c), PositionalEmbedding(c)
        self.encoder = nn.ModuleList(Block(c) for _ in range(c.num_layers))
        self.rates = RateHead(c)
        self.heads = TargetHeads(c, spec.parts)

    @property
    def config(self) -> ModelConfig:
        """Architecture."""
        return self.spec.config

    @property
    def vocabulary(self) -> Vocabulary:
        """Names of the rows of the unit, site and context tables."""
        return self.spec.vocabulary

    def rows(self, session: Session) -> Rows:
        """Returns the table rows of a session that the vocabulary knows, and the tables of the target's parts."""
        return self.vocabulary.rows(session, tuple(part.per for part in self.spec.parts))

    def forward(self, batch: Batch, *, rates: bool = True) -> Prediction:
        """Returns log rates of the units of tokens to be predicted, and the standardised target at all bins.

        Arguments:
            batch: The batch.
            rates: Whether to predict rates.
        """
        encoded = self.encode(batch)
        log_rates = self.log_rates(batch, encoded) if rates else None

        return Prediction(log_rates, self.read_target(batch, encoded) if self.spec.target is not None else None)

    def encode(self, batch: Batch) -> Encoded:
        """Returns latents of all tokens; hidden and invalid entries contribute nothing.

        A token of which nothing is visible joins in the last `LATE` layers: what it adds to others is little before.
        """
        population, every = self.identity(batch), torch.ones_like(batch.window, dtype=torch.bool)
        x = torch.cat([self.contexts(batch), self.stem(batch, population) + self.position(batch.time, batch.slot)])
        visible = batch.seen.any(1)
        first = 0 if bool(visible.all()) else max(len(self.encoder) - LATE, 0)
        x = self._through(range(first), x, batch, visible)
        x = self._through(range(first, len(self.encoder)), x, batch, every)

        return Encoded(tokens=x[len(batch.context) :], chosen=every, population=population)

    def _through(
        self, layers: range, x: Float[Tensor, "N D"], batch: Batch, chosen: Bool[Tensor, " L"]
    ) -> Float[Tensor, "N D"]:
        """Returns context tokens and tokens of the batch after some layers, through which only the chosen ones pass."""
        if not layers:
            return x
        K, (order, layout) = len(batch.context), self.layout(batch, chosen)
        rows = torch.cat([torch.arange(K, device=x.device), K + chosen.nonzero()[:, 0]])[order]
        y = x.index_select(0, rows)
        for i in layers:
            y = self.encoder[i](y, layout, layout.pattern(i))

        return x.index_copy(0, rows, y)

    def contexts(self, batch: Batch) -> Float[Tensor, "K D"]:
        """Returns the context tokens: that of their kind, plus the learned residual of their name."""
        residual = self.context[batch.context]
        if self.training:
            kept = torch.rand(len(residual), 1, device=residual.device) >= self.residual_dropout
            residual = residual * kept.to(residual.dtype)

        return self.context_kind[self.kind_of_context[batch.context]] + residual

    def log_rates(self, batch: Batch, encoded: Encoded, *, every: bool = False) -> Float[Tensor, "W P"]:
        """Returns log spikes per bin of all units of the tokens to be predicted, or of every token."""
        chosen = torch.ones_like(batch.predicted) if every else batch.predicted
        assert encoded.population is not None, "the encoder's own units"

        return self.rates(encoded.tokens[chosen], batch, chosen, encoded.population)

    def latents(self, batch: Batch, encoded: Encoded | None = None) -> Float[Tensor, "R D"]:
        """Returns one latent for each bin: the mean over its encoded tokens, zeros without any."""
        encoded = encoded or self.encode(batch)
        key = batch.bin_index()[encoded.chosen]
        total = encoded.tokens.new_zeros(len(batch.bin_time), encoded.tokens.shape[-1])
        total = total.index_add(0, key, encoded.tokens)

        return total / torch.bincount(key, minlength=len(total)).clamp(min=1)[:, None]

    def read_target(self, batch: Batch, encoded: Encoded) -> Float[Tensor, "R V"]:
        """Returns target and auxiliary targets at each bin, standardised on the training split."""
        return self.heads(self.latents(batch, encoded), batch)

    def decode(self, batch: Batch) -> Float[Tensor, "R C"]:
        """Returns the target at each bin, in units of its standard deviation on the training split.

        Raises:
            ValueError: if the model has no target.
        """
        if self.spec.target is None:
            raise ValueError("this model was not trained for a target")

        return self.read_target(batch, self.encode(batch))[:, : len(self.spec.target.dims)]

    def layout(self, batch: Batch, chosen: Bool[Tensor, " L"]) -> tuple[Int[Tensor, " M"], PackedLayout]:
        """Places each window's context tokens before its chosen tokens.

        Returns the order to apply to ``cat([context tokens, chosen tokens])``, and the layout of the result.
        """
        c, contexts = self.config, batch.context_window
        window = torch.cat([contexts, batch.window[chosen]])
        time = torch.cat([torch.full_like(contexts, CONTEXT), batch.time[chosen]])
        slot = torch.cat([torch.zeros_like(contexts), batch.slot[chosen]])
        order = torch.argsort(window, stable=True)
        x = (window[order], time[order], slot[order], batch.num_windows)

        return order, packed_layout(*x, order=self.ORDER, causal=c.causal, attention_window=c.attention_window)

    def drop_residuals(self, probability: float) -> None:
        """Sets the probability that residuals of units and contexts are left out in training.

        The model then learns to work without them, as in a session that it has never seen.
        """
        self.residual_dropout = self.identity.residual_dropout = probability

    def observe(self, session: Session, activity: NDArray[np.float32]) -> "NDT":
        """Sets the activity of a session's units, (N, A) in the session's order, and returns the model.

        It is measured in unlabelled time of the training split, see `ndt.data.activity`.
        """
        rows = self.rows(session)
        self.identity.activity[torch.from_numpy(rows.unit)] = torch.from_numpy(activity[rows.order]).to(
            self.identity.activity
        )

        return self

    def standardise(self, activity: Sequence[NDArray[np.float32]]) -> None:
        """Sets the statistics by which activity is standardised to those of these sessions' units, each (N, A)."""
        self.identity.standardise(torch.from_numpy(np.concatenate(activity)))

    def extended(self, spec: ModelSpec) -> "NDT":
        """Returns a copy for a specification with more units and contexts, or with another target.

        Residuals of unknown units and contexts are zero. The head of a part that both targets have is kept.
        """
        other, weights = type(self)(spec), self.state_dict()
        heads = {k: v for k, v in weights.items() if k.startswith("heads.")}
        weights = {k: v for k, v in weights.items() if k not in heads}
        for i, part in enumerate(spec.parts):
            if part in self.spec.parts:
                known = f"heads.{self.spec.parts.index(part)}."
                weights |= {f"heads.{i}.{k.removeprefix(known)}": v for k, v in heads.items() if k.startswith(known)}
        new = other.state_dict()  # shares memory with the parameters
        for name in (*TABLES, "identity.activity"):
            if name in weights and name in new:
                known_rows = weights.pop(name)
                new[name][: len(known_rows)] = known_rows
        other.load_state_dict(weights, strict=False)
        other.store = self.store

        return other

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes model.safetensors and model.json into a folder and returns it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.state_dict(), folder / "model.safetensors")
        write_json(folder / "model.json", self.spec.to_json())

        return folder

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> "NDT":
        """Loads a model from a folder, or as ``hf:ORG/NAME`` from the Hugging Face Hub.

        Raises:
            InputError: if there is no model, it has another architecture (`load_model` of `ndt.model.architectures`
                loads any), or its weights or fields differ from those of this version.
        """
        folder = find_model(name, revision)
        spec = read_spec(folder)
        if (found := spec.config.architecture) != cls.ARCHITECTURE:
            raise InputError(folder, "architecture", f"{cls.ARCHITECTURE} (ndt.load_model loads any)", found)
        model = cls(spec)
        load_weights(model, folder / "model.safetensors")
        model.store = read_store(folder)

        return model.eval()

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Uploads the model to the Hugging Face Hub and returns its address."""
        import tempfile

        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api = HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))
