"""The masked transformer: patches and context tokens in, latents and firing rates out.

Reference: Ye, Collinger, Wehbe, Gaunt (2023), "Neural Data Transformer 2", NeurIPS. Where we differ (unit vectors in
place of a unit's position in its patch, rotary time, pre-norm), DECISIONS.md says why.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from ndt.attention import CONTEXT, Layout
from ndt.checkpoint import ModelSpec, load_weights, read_json, save_weights, write_json
from ndt.config import ModelConfig
from ndt.decoder import CovariateDecoder
from ndt.errors import InputError
from ndt.layers import Block
from ndt.tokens import Batch
from ndt.vocabulary import Vocabulary

__all__ = ["NDT", "Encoded", "PatchEmbedding", "RateReadout"]

# B = windows, L = tokens, V = visible tokens, K = context tokens of a window, P = units of a patch, D = width
# U = units of the batch, E = width of a unit's vector, R = bins, C = covariate dimensions


class PatchEmbedding(nn.Module):
    r"""Sums what the spikes of each unit in a patch say.

    .. math::
        x = \frac{1}{\sqrt P} \sum_{n \in \text{patch}} f(e_{c_n} + u_n) + \frac{c_n - \mu_n}{\sqrt{\mu_n + 0.1}} W u_n

    where :math:`c_n` is the count, :math:`e` the count embedding, :math:`u_n` the unit's vector and :math:`\mu_n` its
    mean count. NDT2 concatenates count embeddings instead, which ties a unit's meaning to its place in the file; a sum
    over vectors keyed by identity does not.

    Arguments:
        config: Architecture; uses `width`, `unit_width`, `max_count`, `units_per_patch`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        D, E = config.width, config.unit_width
        self.scale = config.units_per_patch**-0.5
        self.count = nn.Embedding(config.max_count + 1, E)
        self.mix = nn.Sequential(nn.Linear(E, D), nn.GELU(), nn.Linear(D, D))
        self.gain = nn.Linear(E, D, bias=False)

    def forward(
        self,
        counts: Int[Tensor, "L P"],
        member: Int[Tensor, "L P"],
        valid: Bool[Tensor, "L P"],
        vectors: Float[Tensor, "U E"],
        mean_counts: Float[Tensor, " U"],
    ) -> Float[Tensor, "L D"]:
        """Returns one embedding a token; invalid units add nothing."""
        counts = counts.clamp(max=self.count.num_embeddings - 1)
        K = int(counts.max()) + 1 if len(counts) else 1  # only counts that occur are worth a row
        levels = torch.arange(K, device=vectors.device, dtype=vectors.dtype)
        mean = mean_counts[:, None]
        standard = (levels - mean) / (mean + 0.1).sqrt()  # 0.1: silent units stay finite
        table = self.mix(vectors[:, None] + self.count.weight[:K]) + standard[..., None] * self.gain(vectors)[:, None]
        rows = torch.cat([table.flatten(0, 1), table.new_zeros(1, table.shape[-1])])
        index = torch.where(valid, member * K + counts, len(rows) - 1)

        return self.scale * F.embedding_bag(index, rows, mode="sum", padding_idx=len(rows) - 1)


class RateReadout(nn.Module):
    r"""Reads firing rates of a patch's units from its latent.

    .. math:: \log \lambda_n = \log \mu_n + u_n^\top W z + w^\top u_n

    where :math:`\mu_n` is the unit's mean count: a new model starts at constant rates.

    Arguments:
        config: Architecture; uses `width`, `unit_width`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

        self.latent = nn.Linear(config.width, config.unit_width)
        self.unit = nn.Linear(config.unit_width, config.unit_width)
        self.base = nn.Linear(config.unit_width, 1)
        for layer in (self.latent, self.base):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        z: Float[Tensor, "L D"],
        member: Int[Tensor, "L P"],
        vectors: Float[Tensor, "U E"],
        mean_counts: Float[Tensor, " U"],
    ) -> Float[Tensor, "L P"]:
        """Returns log rates in log spikes per bin."""
        base = self.base(vectors)[:, 0] + mean_counts.clamp(min=1e-4).log()  # a silent unit's log rate stays finite
        every = self.latent(z) @ self.unit(vectors).T * vectors.shape[-1] ** -0.5 + base  # (L, U)

        return every.gather(1, member)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What the encoder says of a batch.

    Arguments:
        tokens: Latents of the visible tokens, shape (V, D).
        context: Context tokens after the encoder, shape (B * K, D).
        visible: Which of the batch's tokens are visible, shape (L,).
    """

    tokens: Float[Tensor, "V D"]
    context: Float[Tensor, "M D"]
    visible: Bool[Tensor, " L"]


def _sequence(batch: Batch, chosen: Bool[Tensor, " L"]) -> tuple[Int[Tensor, " M"], Layout]:
    """Puts each window's context tokens before its chosen tokens.

    Returns the order to apply to ``cat([context (B * K), chosen tokens])``, and the layout of the result.
    """
    B, K = batch.context.shape
    window = torch.cat([torch.arange(B, device=chosen.device).repeat_interleave(K), batch.window[chosen]])
    time = torch.cat([torch.full((B * K,), CONTEXT, device=chosen.device), batch.time[chosen]])
    order = torch.argsort(window, stable=True)

    return order, Layout(torch.bincount(window, minlength=B).tolist(), time[order])


class NDT(nn.Module):
    """Neural Data Transformer over unit patches.

    Six steps: (1) each visible token sums the embeddings of its units' counts; (2) time and slot are added; (3) context
    tokens of session, subject and task are put before each window; (4) the encoder attends causally by bin; (5) hidden
    tokens enter as one learned token each, and a light decoder predicts their units' rates; (6) a covariate decoder,
    where there is one, asks once per bin.

    Arguments:
        spec: Architecture, names of the rows of its tables, and what it decodes.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()

        config, D = spec.config, spec.config.width
        self.spec = spec
        self.store: Path | None = None  # where the sessions that it was trained on are, if known
        self.unit = nn.Parameter(torch.randn(len(spec.vocabulary.units), config.unit_width))
        self.mean_counts: Tensor
        self.register_buffer("mean_counts", torch.ones(len(spec.vocabulary.units)))  # spikes per bin of each unit
        self.context = nn.Parameter(0.02 * torch.randn(len(spec.vocabulary.contexts), D))
        self.context_kind = nn.Parameter(0.02 * torch.randn(3, D))  # session, subject, task
        self.embed = PatchEmbedding(config)
        self.slot = nn.Linear(16, D)
        self.mask_token = nn.Parameter(0.02 * torch.randn(D))
        self.time = nn.Embedding(config.max_bins, D) if config.positions == "learned" else None
        self.encoder = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.encoder_norm = nn.LayerNorm(D)
        self.rate_decoder = nn.ModuleList(Block(config) for _ in range(config.num_decoder_layers))
        self.rate_norm = nn.LayerNorm(D)
        self.rates = RateReadout(config)
        self.covariate = CovariateDecoder(config, len(spec.covariate.dims)) if spec.covariate else None

    @property
    def config(self) -> ModelConfig:
        """Architecture."""
        return self.spec.config

    @property
    def vocabulary(self) -> Vocabulary:
        """Names of the rows of the unit and context tables."""
        return self.spec.vocabulary

    def forward(
        self, batch: Batch, *, rates: bool = True
    ) -> tuple[Float[Tensor, "L P"] | None, Float[Tensor, "R C"] | None]:
        """Returns log rates of all tokens' units and the standardised covariate at all bins; None where not asked."""
        encoded = self.encode(batch)

        return (
            self.log_rates(batch, encoded) if rates else None,
            self.decode(batch, encoded) if self.covariate is not None else None,
        )

    def place(self, batch: Batch) -> Float[Tensor, "L D"]:
        """Returns the embedding of each token's time and slot. Slots are not bounded by a table."""
        octave = 2.0 ** -torch.arange(8, device=batch.slot.device)
        phase = batch.slot[:, None] * octave * torch.pi / 2
        place = self.slot(torch.cat([phase.sin(), phase.cos()], dim=-1))

        return place if self.time is None else place + self.time(batch.time)

    def encode(self, batch: Batch) -> Encoded:
        """Returns latents of the tokens that are not hidden. Hidden tokens cost nothing here."""
        visible, vectors = ~batch.hidden, self.unit[batch.unit]
        tokens = self.embed(
            batch.counts[visible], batch.member[visible], batch.valid[visible], vectors, self.mean_counts[batch.unit]
        )
        context = (self.context[batch.context] + self.context_kind).flatten(0, 1)  # (B * K, D)
        order, layout = _sequence(batch, visible)
        x = torch.cat([context, tokens + self.place(batch)[visible]])[order]
        for block in self.encoder:
            x = block(x, layout)
        x = torch.empty_like(x).index_copy(0, order, self.encoder_norm(x))  # back to context first, then tokens
        context, tokens = x.split([len(context), len(tokens)])

        return Encoded(tokens=tokens, context=context, visible=visible)

    def log_rates(self, batch: Batch, encoded: Encoded) -> Float[Tensor, "L P"]:
        """Returns log rates of all tokens' units, in log spikes per bin; hidden tokens are predicted from visible."""
        x = self.mask_token.expand(len(batch.time), -1).to(encoded.tokens.dtype)
        x = x.masked_scatter(encoded.visible[:, None], encoded.tokens) + self.place(batch)
        order, layout = _sequence(batch, torch.ones_like(encoded.visible))
        x = torch.cat([encoded.context, x])[order]
        for block in self.rate_decoder:
            x = block(x, layout)
        x = torch.empty_like(x).index_copy(0, order, self.rate_norm(x))[len(encoded.context) :]

        return self.rates(x, batch.member, self.unit[batch.unit], self.mean_counts[batch.unit])

    def latents(self, batch: Batch, encoded: Encoded) -> Float[Tensor, "R D"]:
        """Returns one latent a bin: the mean over its visible tokens, zeros where there is none."""
        key = batch.bin_index()[encoded.visible]
        total = encoded.tokens.new_zeros(len(batch.bin_time), encoded.tokens.shape[-1])
        total = total.index_add(0, key, encoded.tokens)

        return total / torch.bincount(key, minlength=len(total)).clamp(min=1)[:, None]

    def decode(self, batch: Batch, encoded: Encoded) -> Float[Tensor, "R C"]:
        """Returns the covariate at each bin, in units of its standard deviation on the training block."""
        if self.covariate is None:
            raise ValueError("this model was not fine-tuned for a covariate")
        order, layout = _sequence(batch, encoded.visible)
        memory = torch.cat([encoded.context, encoded.tokens])[order]

        return self.covariate(self.latents(batch, encoded), batch, memory, layout)

    def observe(self, unit: NDArray[np.int64], mean_counts: NDArray[np.float64]) -> "NDT":
        """Sets the mean counts per bin of units, given by their rows, and returns the model.

        They come from a session's training block and need no labels.
        """
        self.mean_counts[torch.from_numpy(unit)] = torch.from_numpy(mean_counts).to(self.mean_counts)

        return self

    def extended(self, spec: ModelSpec) -> "NDT":
        """Returns a copy for a specification that knows more units and contexts, or decodes something.

        Unknown units start at the mean of the known, unknown contexts at the mean of their kind. A decoder is kept
        where it decodes the same covariate, else it starts anew.
        """
        other, old = NDT(spec), self.state_dict()
        if self.spec.covariate is None or spec.covariate is None or self.spec.covariate.name != spec.covariate.name:
            old = {k: v for k, v in old.items() if not k.startswith("covariate.")}
        units, contexts, mean_counts = old.pop("unit"), old.pop("context"), old.pop("mean_counts")
        kinds = [name.partition(":")[0] for name in spec.vocabulary.contexts]
        with torch.no_grad():
            if len(units):
                other.unit[:] = units.mean(0)
                other.unit[: len(units)] = units
            other.mean_counts[: len(units)] = mean_counts
            for row in range(len(contexts), len(kinds)):
                same = [i for i in range(len(contexts)) if kinds[i] == kinds[row]]
                if same:
                    other.context[row] = contexts[same].mean(0)
            other.context[: len(contexts)] = contexts
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
            InputError: if there is no model, or its architecture differs from what its weights or this version expect.
        """
        folder = Path(name)
        if not folder.is_dir():
            folder = _from_hub(str(name), revision)
        spec = ModelSpec.from_json(folder / "model.json", read_json(folder / "model.json"))
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


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["model.json", "model.safetensors"]))
    except Exception as error:  # the hub raises a dozen kinds: none is worth more to the user than its text
        raise InputError(name, "model", "a folder with model.json, or a model on the Hub", error) from error
