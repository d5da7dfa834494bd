"""The masked transformer: patches and context tokens in, latents and firing rates out.

It descends from Ye, Collinger, Wehbe, Gaunt (2023), "Neural Data Transformer 2", NeurIPS, whose own model is
`ndt.model.ndt2.NDT2`; where ours differs, DECISIONS.md says why.
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
from ndt.model.checkpoint import ModelSpec, find_model, load_weights, read_json, save_weights, write_json
from ndt.model.layers import Block, Dropout
from ndt.model.layout import CONTEXT, PackedLayout, arrange
from ndt.model.linear import LinearDecoder
from ndt.model.patches import Population, VectorEmbedding, VectorReadout
from ndt.model.tcn import TCNDecoder
from ndt.model.tokens import Batch
from ndt.model.vocabulary import KINDS, Vocabulary
from ndt.session import Session

__all__ = ["NDT", "TABLES", "Encoded", "PositionalEmbedding", "Prediction"]

TABLES = ("unit", "unit_site", "context", "readin")  # parameters that have a row for each name in the vocabulary

# B = windows, L = tokens, V = visible tokens, W = tokens to be predicted, K = context tokens of all windows, P = units
# of a patch, U = units of the batch, D = width, E = width of a unit's vector, R = bins, C = target dimensions


class PositionalEmbedding(nn.Module):
    """Embeds a token's slot by sinusoids, which no table bounds; time is rotary.

    Arguments:
        config: Architecture; uses `width`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        self.wave = nn.Linear(16, config.width)
        nn.init.normal_(self.wave.weight, std=0.02)  # small: norms then let a hidden token be what it reads, not where
        nn.init.zeros_(self.wave.bias)

    def forward(self, time: Int[Tensor, " L"], slot: Int[Tensor, " L"]) -> Float[Tensor, "L D"]:
        """Returns one embedding a token."""
        octave = 2.0 ** -torch.arange(8, device=slot.device)
        phase = slot[:, None] * octave * torch.pi / 2

        return self.wave(torch.cat([phase.sin(), phase.cos()], dim=-1))


class Prediction(NamedTuple):
    """What the model says of a batch; None where it was not asked, or cannot.

    Arguments:
        log_rates: Of the units of the tokens to be predicted (`Batch.predicted`), in log spikes per bin, (W, P).
        decoded: Standardised target at all bins, (R, C).
    """

    log_rates: Tensor | None
    decoded: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What the encoder says of a batch.

    Arguments:
        tokens: Latents of the visible tokens, shape (V, D).
        visible: Which of the batch's tokens are visible, shape (L,).
        memory: Encoded context and tokens together, as `rows` says, shape (K + V, D).
        rows: PackedLayout of the memory.
        population: The batch's units.
    """

    tokens: Float[Tensor, "V D"]
    visible: Bool[Tensor, " L"]
    memory: Float[Tensor, "M D"]
    rows: PackedLayout
    population: Population


class NDT(nn.Module):
    """Neural Data Transformer over unit patches.

    Six steps: (1) a token embeds the counts of its patch's visible units; (2) its slot is added; (3) context tokens of
    session, subject and task are put before each window; (4) the encoder reads visible tokens, causally; (5) tokens of
    which nothing is visible enter as one learned token, and a light decoder predicts the rates of what is hidden; (6) a
    decoder, where there is one, reads counts or latents. Context tokens enter each stack anew.

    Another architecture (`ndt.model.ndt2`) has other segments in the same steps.

    Arguments:
        spec: Architecture, names of the rows of its tables, and what it decodes.
    """

    ARCHITECTURE: ClassVar[str] = "ndt"  # as settings name it
    EMBEDDING: ClassVar[type[nn.Module]] = VectorEmbedding
    PLACE: ClassVar[type[nn.Module]] = PositionalEmbedding
    BLOCK: ClassVar[type[Block]] = Block
    READOUT: ClassVar[type[nn.Module]] = VectorReadout
    ORDER: ClassVar[str] = "factorised"  # who reads whom, see `ndt.model.layout`
    KNOWS_UNITS: ClassVar[bool] = True  # whether units have vectors of their own
    SHARED_MASK: ClassVar[bool] = False  # whether one mask is drawn for all windows of a batch
    UNDECODED: ClassVar[float] = 0.0  # seconds at the start of a window whose labels do not count
    R2_BINS: ClassVar[int | None] = None  # bins of which each gives one validation R², then averaged; None: all at once

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()

        c, known = spec.config, spec.vocabulary
        self.spec = spec
        self.store: Path | None = None  # where the sessions that it was trained on are, if known
        self.mean_counts: Tensor
        self.register_buffer("mean_counts", torch.ones(len(known.units)))  # spikes per bin of each unit
        self._add_units(spec)
        self.context = nn.Parameter(0.02 * torch.randn(len(known.contexts), c.width))
        self.context_kind = nn.Parameter(0.02 * torch.randn(len(KINDS), c.width))
        self.embed = self.EMBEDDING(c)
        self.place, self.rate_position = self.PLACE(c), self.PLACE(c)
        self.mask_token = nn.Parameter(0.02 * torch.randn(c.width))
        self.dropout = Dropout(c.dropout)  # around stacks
        self.encoder = nn.ModuleList(self.BLOCK(c) for _ in range(c.num_layers))
        self.encoder_norm = nn.LayerNorm(c.width) if c.norm == "pre" else nn.Identity()
        self.rate_decoder = nn.ModuleList(self.BLOCK(c) for _ in range(c.num_decoder_layers))
        self.rate_norm = nn.LayerNorm(c.width) if c.norm == "pre" else nn.Identity()
        self.rates = self.READOUT(c)
        self.readin: nn.Parameter | None = None
        self.decoder = self._decoder(spec) if spec.target else None
        kinds = [KINDS.index(name.partition(":")[0]) for name in known.contexts]
        self.kind_of_context: Tensor
        self.register_buffer("kind_of_context", torch.tensor(kinds, dtype=torch.long), persistent=False)

    def _add_units(self, spec: ModelSpec) -> None:
        """Adds what is known of units."""
        known, E = spec.vocabulary, spec.config.unit_width
        self.unit = nn.Parameter(torch.randn(len(known.units), E))
        self.unit_site = nn.Parameter(torch.zeros(len(known.places), E))  # region and probe
        self.depth = nn.Parameter(torch.zeros(E))  # per millimetre
        self.site_of_unit: Tensor
        places = torch.tensor(known.unit_sites or [(0, 0)] * len(known.units), dtype=torch.long).view(-1, 2)
        self.register_buffer("site_of_unit", places, persistent=False)
        self.depth_of_unit: Tensor
        depths = torch.tensor(known.unit_depths or [0.0] * len(known.units), dtype=torch.float32)
        self.register_buffer("depth_of_unit", depths, persistent=False)

    def _decoder(self, spec: ModelSpec) -> nn.Module:
        """Returns a new decoder."""
        assert spec.target is not None, "something is decoded"
        c = spec.config
        if c.decoder == "linear":
            return LinearDecoder(spec)
        # What the decoder reads of a unit beside its vector: labels teach it, where the masked loss teaches vectors.
        self.readin = nn.Parameter(torch.zeros(len(spec.vocabulary.units), c.unit_width * c.num_members))

        return TCNDecoder(c, *spec.target.outputs)

    @property
    def config(self) -> ModelConfig:
        """Architecture."""
        return self.spec.config

    @property
    def vocabulary(self) -> Vocabulary:
        """Names of the rows of the unit, place and context tables."""
        return self.spec.vocabulary

    def forward(self, batch: Batch, *, rates: bool = True, detach_latents: bool = False) -> Prediction:
        """Returns log rates of the hidden units, unless not asked, and the standardised target at all bins.

        Nothing is encoded that neither rates nor the target are read from.

        Arguments:
            batch: The batch.
            rates: Whether rates are asked for.
            detach_latents: Whether a TCN decoder reads latents without passing its gradient on to the encoder.
        """
        encoded = self.encode(batch) if rates else None
        decoded = self.decode(batch, encoded, detach_latents=detach_latents) if self.decoder is not None else None
        if encoded is None:
            return Prediction(None, decoded)

        return Prediction(self.log_rates(batch, encoded), decoded)

    def population(self, batch: Batch) -> Population:
        """Returns the batch's units: vectors of identity, region, probe and depth, and mean counts."""
        vectors = self.unit.index_select(0, batch.unit)
        if len(self.unit_site):
            vectors = vectors + self.unit_site[self.site_of_unit[batch.unit]].sum(1)

        return Population(vectors + self.depth_of_unit[batch.unit][:, None] * self.depth, self._means(batch))

    def _means(self, batch: Batch) -> Float[Tensor, " U"]:
        """Returns spikes per bin of the batch's units: their session's own, where the batch brings them."""
        return torch.where(batch.mean_counts.isnan(), self.mean_counts[batch.unit], batch.mean_counts)

    def encode(self, batch: Batch) -> Encoded:
        """Returns latents of the tokens of which something is visible. The others cost nothing here."""
        visible, population = batch.visible, self.population(batch)
        tokens = self.embed(batch, visible, population) + self.place(batch.time[visible], batch.slot[visible])
        context = self.context[batch.context] + self.context_kind[self.kind_of_context[batch.context]]
        order, rows = self._arrange(batch, visible)
        x = torch.cat([context, self.dropout(tokens)])
        x = x.index_select(0, order)
        for i, block in enumerate(self.encoder):
            x = block(x, rows, rows.pattern(i))
        x = self.dropout(self.encoder_norm(x))

        tokens = x.index_select(0, rows.data)

        return Encoded(tokens=tokens, visible=visible, memory=x, rows=rows, population=population)

    def log_rates(self, batch: Batch, encoded: Encoded, *, every: bool = False) -> Float[Tensor, "W P"]:
        """Returns log rates in log spikes per bin of all units of the tokens to be predicted, or of every token."""
        x = self.mask_token.expand(batch.num_tokens, -1).to(encoded.tokens.dtype)
        x = x.masked_scatter(encoded.visible[:, None], encoded.tokens) + self.rate_position(batch.time, batch.slot)
        order, rows = self._arrange(batch, torch.ones_like(encoded.visible))
        x = torch.cat([self.context[batch.context], self.dropout(x)]).index_select(0, order)
        chosen = torch.ones_like(encoded.visible) if every else batch.predicted
        last = len(self.rate_decoder) - 1
        for i, block in enumerate(self.rate_decoder):
            x = block(x, rows, rows.pattern(i), keep=rows.data[chosen] if i == last else None)
        x = self.rate_norm(x)

        return self.rates(self.dropout(x), batch, chosen, encoded.population)

    def latents(self, batch: Batch, encoded: Encoded | None = None) -> Float[Tensor, "R D"]:
        """Returns one latent a bin: the mean over its visible tokens, zeros where there is none."""
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
            batch: The batch; of one that brings its latents nothing is encoded.
            encoded: Its encoding, where it is known.
            detach_latents: Whether a TCN decoder reads latents without passing its gradient on to the encoder.
        """
        if self.decoder is None:
            raise ValueError("this model was not fine-tuned for a target")
        if isinstance(self.decoder, TCNDecoder):
            return self._decode_tcn(batch, encoded, detach_latents)

        return self.decoder(batch, self.latents(batch, encoded))

    def _decode_tcn(self, batch: Batch, encoded: Encoded | None, detach_latents: bool) -> Float[Tensor, "Q C"]:
        assert isinstance(self.decoder, TCNDecoder)
        assert self.readin is not None, "a TCN decoder reads units"
        latents = batch.latents
        if latents is None and self.decoder.reads_latents:
            encoded = encoded or self.encode(batch)
            latents = self.latents(batch, encoded)
            latents = latents.detach() if detach_latents else latents
        population = encoded.population if encoded is not None else self.population(batch)
        vectors = population.vectors.repeat(1, self.config.num_members)  # a stack reads them in its own way
        read = vectors + self.readin.index_select(0, batch.unit)

        return self.decoder(batch, latents, Population(read, population.mean_counts))

    def _arrange(self, batch: Batch, chosen: Bool[Tensor, " L"]) -> tuple[Int[Tensor, " M"], PackedLayout]:
        """Puts each window's context tokens before its chosen tokens.

        Returns the order to apply to ``cat([context tokens, chosen tokens])``, and the arrangement of the result.
        """
        c, contexts = self.config, batch.context_window
        window = torch.cat([contexts, batch.window[chosen]])
        time = torch.cat([torch.full_like(contexts, CONTEXT), batch.time[chosen]])
        slot = torch.cat([torch.zeros_like(contexts), batch.slot[chosen]])
        order = torch.argsort(window, stable=True)
        x = (window[order], time[order], slot[order], batch.num_windows)

        return order, arrange(*x, order=self.ORDER, causal=c.causal, attention_window=c.attention_window)

    def observe(self, session: Session, mean_counts: NDArray[np.float64]) -> "NDT":
        """Sets the mean counts per bin of a session's units, (N,) in the session's order, and returns the model.

        They come from the session's training split and need no labels.
        """
        rows = self.vocabulary.rows(session)
        self.mean_counts[torch.from_numpy(rows.unit)] = torch.from_numpy(mean_counts[rows.order]).to(self.mean_counts)

        return self

    def extended(self, spec: ModelSpec) -> "NDT":
        """Returns a copy for a specification that knows more units and contexts, or decodes something.

        Unknown units start at the mean of the known (with the vectors of their region, probe and depth where the file
        has them) and are read as their vectors say; unknown contexts start at the mean of their kind. A decoder is kept where it decodes the same target, else it starts anew.
        """
        other, old = type(self)(spec), self.state_dict()
        mine, theirs = self.spec.target, spec.target
        alike = self.config.decoder == spec.config.decoder
        if mine is None or theirs is None or not (alike and mine.same(theirs)):
            old = {k: v for k, v in old.items() if not k.startswith("decoder.")}
        new = other.state_dict()  # shares memory with the parameters
        tables = {name: old.pop(name) for name in (*TABLES, "mean_counts") if name in old and name in new}
        kinds = [name.partition(":")[0] for name in spec.vocabulary.contexts]
        for name, known in tables.items():
            if name == "unit" and len(known):
                new[name][:] = known.mean(0)
            new[name][: len(known)] = known
        known = tables["context"]
        for row in range(len(known), len(kinds)):
            same = [i for i in range(len(known)) if kinds[i] == kinds[row]]
            if same:
                new["context"][row] = known[same].mean(0)
        other.load_state_dict(old, strict=False)

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
            InputError: if there is no model, its architecture is another (`ndt.model.architectures.load_model` loads any), or
                differs from what its weights or this version expect.
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
