"""The masked transformer: patches and context tokens in, latents and firing rates out.

It is derived from Ye, Collinger, Wehbe, Gaunt (2023), "Neural Data Transformer 2", NeurIPS, whose model is
`ndt.model.ndt2.NDT2`; DECISIONS.md gives the reason for each difference.
"""

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
from ndt.model.checkpoint import ModelSpec, find_model, load_weights, read_json, save_weights, write_json
from ndt.model.layers import Block, Dropout
from ndt.model.linear import LinearDecoder
from ndt.model.patches import PatchEmbedding, Population, RateReadout
from ndt.model.tcn import TCNDecoder
from ndt.model.tokens import Batch
from ndt.model.vocabulary import CONTEXT_KINDS, Vocabulary
from ndt.session import Session

__all__ = ["NDT", "TABLES", "Encoded", "PositionalEmbedding", "Prediction"]

TABLES = ("unit", "unit_site", "context", "readin")  # parameters with one row for each name in the vocabulary

# B = windows, L = tokens, V = visible tokens, W = tokens to be predicted, K = context tokens of all windows, P = units
# of a patch, U = units of the batch, D = width, E = width of an identity embedding, R = bins, C = target dimensions


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
    """Outputs of the model for a batch; None if not requested, or without a decoder.

    Arguments:
        log_rates: Log spikes per bin of the units of the tokens to be predicted (`Batch.predicted`), (W, P).
        decoded: Standardised target at all bins, (R, C).
    """

    log_rates: Tensor | None
    decoded: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Outputs of the encoder for a batch.

    Arguments:
        tokens: Latents of the visible tokens, shape (V, D).
        visible: Which of the batch's tokens are visible, shape (L,).
        memory: Encoded context and data tokens in the order of `layout`, shape (K + V, D).
        layout: Layout of the memory.
        population: The batch's units.
    """

    tokens: Float[Tensor, "V D"]
    visible: Bool[Tensor, " L"]
    memory: Float[Tensor, "M D"]
    layout: PackedLayout
    population: Population


class NDT(nn.Module):
    """Neural Data Transformer over patches of units.

    Six steps: (1) a token embeds the counts of its patch's visible units; (2) the positional embedding of its slot is
    added; (3) context tokens of session, subject and task precede each window; (4) the causal encoder transforms the
    visible tokens; (5) tokens without visible entries enter as one learned mask token, and a shallow rate decoder
    predicts the rates of hidden entries; (6) the decoder of the target, if there is one, reads counts or latents. The
    context tokens enter encoder and rate decoder anew.

    Another architecture (`ndt.model.ndt2`) replaces the modules of these steps.

    Arguments:
        spec: Architecture, names of the rows of its tables, and the target.
    """

    ARCHITECTURE: ClassVar[str] = "ndt"  # its name in settings
    EMBEDDING: ClassVar[type[nn.Module]] = PatchEmbedding
    POSITION: ClassVar[type[nn.Module]] = PositionalEmbedding
    BLOCK: ClassVar[type[Block]] = Block
    READOUT: ClassVar[type[nn.Module]] = RateReadout
    ORDER: ClassVar[str] = "axial"  # of the attention patterns, see `ndt.model.attention_patterns`
    KNOWS_UNITS: ClassVar[bool] = True  # whether units have identity embeddings
    SHARED_MASK: ClassVar[bool] = False  # whether one mask is drawn for all windows of a batch
    UNDECODED: ClassVar[float] = 0.0  # seconds at the start of a window without a decoding loss
    R2_BINS: ClassVar[int | None] = None  # validation R² is averaged over segments of this many bins; None: one R²

    mean_counts: Tensor
    kind_of_context: Tensor
    site_of_unit: Tensor
    depth_of_unit: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()

        c, vocabulary = spec.config, spec.vocabulary
        self.spec = spec
        self.store: Path | None = None  # store of the sessions that it was trained on, if known
        self.register_buffer("mean_counts", torch.ones(len(vocabulary.units)))  # spikes per bin of each unit
        self._add_units(spec)
        self.context = nn.Parameter(0.02 * torch.randn(len(vocabulary.contexts), c.width))
        self.context_kind = nn.Parameter(0.02 * torch.randn(len(CONTEXT_KINDS), c.width))
        self.embed = self.EMBEDDING(c)
        self.position, self.rate_position = self.POSITION(c), self.POSITION(c)
        self.mask_token = nn.Parameter(0.02 * torch.randn(c.width))
        self.dropout = Dropout(c.dropout)  # of the inputs and outputs of encoder and rate decoder
        self.encoder = nn.ModuleList(self.BLOCK(c) for _ in range(c.num_layers))
        self.encoder_norm = nn.LayerNorm(c.width) if c.norm == "pre" else nn.Identity()
        self.rate_decoder = nn.ModuleList(self.BLOCK(c) for _ in range(c.num_decoder_layers))
        self.rate_norm = nn.LayerNorm(c.width) if c.norm == "pre" else nn.Identity()
        self.rates = self.READOUT(c)
        self.readin: nn.Parameter | None = None
        self.decoder = self._decoder(spec) if spec.target else None
        kinds = [CONTEXT_KINDS.index(name.partition(":")[0]) for name in vocabulary.contexts]
        self.register_buffer("kind_of_context", torch.tensor(kinds, dtype=torch.long), persistent=False)

    def _add_units(self, spec: ModelSpec) -> None:
        """Adds the tables of units: identity embeddings, and those of region, probe and depth."""
        vocabulary, E = spec.vocabulary, spec.config.unit_width
        U = len(vocabulary.units)
        self.unit = nn.Parameter(torch.randn(U, E))
        self.unit_site = nn.Parameter(torch.zeros(len(vocabulary.sites), E))  # region and probe
        self.depth = nn.Parameter(torch.zeros(E))  # per millimetre
        sites = torch.tensor(vocabulary.unit_sites or [(0, 0)] * U, dtype=torch.long).view(-1, 2)
        self.register_buffer("site_of_unit", sites, persistent=False)
        depths = torch.tensor(vocabulary.unit_depths or [0.0] * U, dtype=torch.float32)
        self.register_buffer("depth_of_unit", depths, persistent=False)

    def _decoder(self, spec: ModelSpec) -> nn.Module:
        """Returns a new decoder of the target."""
        assert spec.target is not None, "a decoder has a target"
        c = spec.config
        if c.decoder == "linear":
            return LinearDecoder(spec)
        # Read-in weights are added to identity embeddings: labels train the former, the masked loss the latter.
        self.readin = nn.Parameter(torch.zeros(len(spec.vocabulary.units), c.unit_width * c.num_members))

        return TCNDecoder(c, *spec.target.outputs)

    @property
    def config(self) -> ModelConfig:
        """Architecture."""
        return self.spec.config

    @property
    def vocabulary(self) -> Vocabulary:
        """Names of the rows of the unit, site and context tables."""
        return self.spec.vocabulary

    def forward(self, batch: Batch, *, rates: bool = True, detach_latents: bool = False) -> Prediction:
        """Returns log rates of the units of tokens to be predicted, and the standardised target at all bins.

        The encoder runs only if rates or the decoder need it.

        Arguments:
            batch: The batch.
            rates: Whether to predict rates.
            detach_latents: Whether a TCN decoder stops its gradient at the latents.
        """
        encoded = self.encode(batch) if rates else None
        decoded = self.decode(batch, encoded, detach_latents=detach_latents) if self.decoder is not None else None

        return Prediction(None if encoded is None else self.log_rates(batch, encoded), decoded)

    def population(self, batch: Batch) -> Population:
        """Returns the batch's units: embeddings of identity, region, probe and depth, and mean counts."""
        vectors = self.unit.index_select(0, batch.unit)
        if len(self.unit_site):
            vectors = vectors + self.unit_site[self.site_of_unit[batch.unit]].sum(1)

        return Population(vectors + self.depth_of_unit[batch.unit][:, None] * self.depth, self._mean_counts(batch))

    def _mean_counts(self, batch: Batch) -> Float[Tensor, " U"]:
        """Returns spikes per bin of the batch's units: of their session if the batch has them, else the model's."""
        return torch.where(batch.mean_counts.isnan(), self.mean_counts[batch.unit], batch.mean_counts)

    def encode(self, batch: Batch) -> Encoded:
        """Returns latents of the visible tokens; the encoder does not process the others."""
        visible, population = batch.visible, self.population(batch)
        tokens = self.embed(batch, visible, population) + self.position(batch.time[visible], batch.slot[visible])
        context = self.context[batch.context] + self.context_kind[self.kind_of_context[batch.context]]
        order, layout = self._layout(batch, visible)
        x = torch.cat([context, self.dropout(tokens)]).index_select(0, order)
        for i, block in enumerate(self.encoder):
            x = block(x, layout, layout.pattern(i))
        x = self.dropout(self.encoder_norm(x))
        tokens = x.index_select(0, layout.data)

        return Encoded(tokens=tokens, visible=visible, memory=x, layout=layout, population=population)

    def log_rates(self, batch: Batch, encoded: Encoded, *, every: bool = False) -> Float[Tensor, "W P"]:
        """Returns log spikes per bin of all units of the tokens to be predicted, or of every token."""
        x = self.mask_token.expand(batch.num_tokens, -1).to(encoded.tokens.dtype)
        x = x.masked_scatter(encoded.visible[:, None], encoded.tokens) + self.rate_position(batch.time, batch.slot)
        order, layout = self._layout(batch, torch.ones_like(encoded.visible))
        x = torch.cat([self.context[batch.context], self.dropout(x)]).index_select(0, order)
        chosen = torch.ones_like(encoded.visible) if every else batch.predicted
        last = len(self.rate_decoder) - 1
        for i, block in enumerate(self.rate_decoder):
            x = block(x, layout, layout.pattern(i), keep=layout.data[chosen] if i == last else None)

        return self.rates(self.dropout(self.rate_norm(x)), batch, chosen, encoded.population)

    def latents(self, batch: Batch, encoded: Encoded | None = None) -> Float[Tensor, "R D"]:
        """Returns one latent for each bin: the mean over its visible tokens, zeros without any."""
        encoded = encoded or self.encode(batch)
        key = batch.bin_index()[encoded.visible]
        total = encoded.tokens.new_zeros(len(batch.bin_time), encoded.tokens.shape[-1])
        total = total.index_add(0, key, encoded.tokens)

        return total / torch.bincount(key, minlength=len(total)).clamp(min=1)[:, None]

    def decode(
        self, batch: Batch, encoded: Encoded | None = None, *, detach_latents: bool = False
    ) -> Float[Tensor, "Q C"]:
        """Returns the target at each bin, in units of its standard deviation on the training split.

        Arguments:
            batch: The batch; if it holds latents, the encoder does not run.
            encoded: Its encoding, if already computed.
            detach_latents: Whether a TCN decoder stops its gradient at the latents.
        """
        if self.decoder is None:
            raise ValueError("this model was not fine-tuned for a target")
        if not isinstance(self.decoder, TCNDecoder):
            return self.decoder(batch, self.latents(batch, encoded))
        latents = batch.latents
        if latents is None and self.decoder.reads_latents:
            encoded = encoded or self.encode(batch)
            latents = self.latents(batch, encoded)
            latents = latents.detach() if detach_latents else latents
        assert self.readin is not None, "a TCN decoder has read-in weights"
        population = encoded.population if encoded is not None else self.population(batch)
        vectors = population.vectors.repeat(1, self.config.num_members) + self.readin.index_select(0, batch.unit)

        return self.decoder(batch, latents, Population(vectors, population.mean_counts))

    def _layout(self, batch: Batch, chosen: Bool[Tensor, " L"]) -> tuple[Int[Tensor, " M"], PackedLayout]:
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

    def observe(self, session: Session, mean_counts: NDArray[np.float64]) -> "NDT":
        """Sets the mean counts per bin of a session's units, (N,) in the session's order, and returns the model.

        They are computed on the session's training split and need no labels.
        """
        rows = self.vocabulary.rows(session)
        self.mean_counts[torch.from_numpy(rows.unit)] = torch.from_numpy(mean_counts[rows.order]).to(self.mean_counts)

        return self

    def extended(self, spec: ModelSpec) -> "NDT":
        """Returns a copy for a specification with more units and contexts, or with a target.

        Unknown units start at the mean identity embedding (plus the embeddings of their region, probe and depth, if the
        file has them) with zero read-in weights; unknown contexts start at the mean of their kind. The decoder is kept
        if its target is the same, else it is new.
        """
        other, weights = type(self)(spec), self.state_dict()
        target, kept = self.spec.target, self.config.decoder == spec.config.decoder
        if target is None or spec.target is None or not (kept and target.same(spec.target)):
            weights = {k: v for k, v in weights.items() if not k.startswith("decoder.")}
        new = other.state_dict()  # shares memory with the parameters
        tables = {name: weights.pop(name) for name in (*TABLES, "mean_counts") if name in weights and name in new}
        for name, known in tables.items():
            if name == "unit" and len(known):
                new[name][:] = known.mean(0)
            new[name][: len(known)] = known
        known = tables["context"]
        kinds = [name.partition(":")[0] for name in spec.vocabulary.contexts]
        for row in range(len(known), len(kinds)):
            if same := [i for i in range(len(known)) if kinds[i] == kinds[row]]:
                new["context"][row] = known[same].mean(0)
        other.load_state_dict(weights, strict=False)

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
        """Loads a model from a folder, else from the Hugging Face Hub.

        Raises:
            InputError: if there is no model, it has another architecture (`load_model` of `ndt.model.architectures`
                loads any), or its weights or fields differ from those of this version.
        """
        folder = find_model(name, revision)
        spec = ModelSpec.from_json(folder / "model.json", read_json(folder / "model.json"))
        if (found := spec.config.architecture) != cls.ARCHITECTURE:
            raise InputError(folder, "architecture", f"{cls.ARCHITECTURE} (ndt.load_model loads any)", found)
        model = cls(spec)
        load_weights(model, folder / "model.safetensors")
        if (folder / "run.json").exists():
            model.store = Path(read_json(folder / "run.json")["store"])

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
