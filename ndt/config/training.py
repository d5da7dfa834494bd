"""Settings of pretraining, fine-tuning, studies and benchmarks."""

from dataclasses import dataclass, field

from ndt.config.model import ModelConfig
from ndt.config.reader import INF, MOST_SEED, MOST_STEPS, choose, require
from ndt.errors import InputError

__all__ = [
    "BASELINES",
    "MASK_KINDS",
    "MEMBERS",
    "STRATEGIES",
    "BenchConfig",
    "FinetuneConfig",
    "MaskConfig",
    "PretrainConfig",
    "StudyConfig",
    "TrainConfig",
]

MASK_KINDS = ("random", "span", "unit", "forward")
MEMBERS = ("tcn", "ridge", "gru", "naive_bayes", "logistic")  # baselines that may be in the ensemble
STRATEGIES = ("full", "heads", "unlabelled", "none")  # adaptation of a pretrained model
BASELINES = (*MEMBERS, "wiener", "kalman", "ridge_time_gain", "time_only", "block_permuted", "circularly_shifted")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop of pretraining and fine-tuning.

    Arguments:
        steps: Optimisation steps.
        batch_size: Windows per step, over all processes and micro-batches.
        micro_batches: Parts into which each process divides its windows; the step equals that of the whole batch.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Weight decay of matrices; biases, norms and embedding tables have none.
        warmup_steps: Steps of linear warm-up; a cosine to a twentieth follows.
        ema: Decay of the exponential moving average of weights, which is validated and saved; 0 for none.
        valid_every: Steps between validations; each also writes a checkpoint.
        patience: Validations without improvement before training stops; 0 for no early stopping.
        precision: ``fp32``, ``bf16``, or ``auto``: bf16 on a GPU or on a CPU with AMX, fp32 elsewhere.
        attention: Attention kernel: ``auto``, ``xformers``, ``varlen``, ``flex`` or ``sdpa``; `ndt bench attention
            --list` shows what each supports.
        checkpoint_activations: Whether blocks recompute their activations in the backward pass, to save memory.
        sharding: ``none``: each process holds all weights; ``fsdp``: each holds a shard of weights and optimiser state.
            Checkpoints of a sharded run are torch's distributed ones, whose index is a pickle: resume only from your
            own. The final weights are safetensors in any case.
    """

    steps: int = 1000
    batch_size: int = 32
    micro_batches: int = 1
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    ema: float = 0.98
    valid_every: int = 100
    patience: int = 0
    precision: str = "auto"
    attention: str = "auto"
    checkpoint_activations: bool = False
    sharding: str = "none"

    def __post_init__(self) -> None:
        require(self, {"steps": (1, MOST_STEPS), "batch_size": (1, 65_536), "valid_every": (1, MOST_STEPS)}, "train.")
        require(
            self, dict.fromkeys(("warmup_steps", "patience"), (0, MOST_STEPS)) | {"weight_decay": (0, INF)}, "train."
        )
        own = {"micro_batches": (1, self.batch_size), "learning_rate": (1e-12, INF), "ema": (0, 0.9999)}
        require(self, own, "train.")
        choose(self, "train", precision=("auto", "fp32", "bf16"))
        choose(self, "train", attention=("auto", "xformers", "varlen", "flex", "sdpa"))
        choose(self, "train", sharding=("none", "fsdp"))


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Entries that pretraining hides from the encoder; see `ndt.model.masking`.

    Arguments:
        ratio: Hidden fraction of a window. For whole units and last bins it is the largest fraction; the fraction is
            drawn anew for each window.
        kinds: Kinds of mask, drawn with equal probability: ``random`` (single tokens, a patch in a bin, as NDT2),
            ``span`` (runs of bins of each patch), ``unit`` (whole units, co-smoothing) and ``forward`` (the last bins).
        random_only_steps: Number of first steps that draw only ``random`` masks, if it is one of the kinds. Models that
            began with harder masks stayed at constant rates.
        share: Fraction of training windows with hidden entries.
    """

    ratio: float = 0.5
    kinds: tuple[str, ...] = ("random",)
    random_only_steps: int = 200
    share: float = 1.0

    def __post_init__(self) -> None:
        require(self, {"ratio": (0.01, 0.99), "random_only_steps": (0, MOST_STEPS), "share": (0, 1)}, "mask.")
        if not self.kinds or not set(self.kinds) <= set(MASK_KINDS):
            raise InputError("settings", "mask.kinds", f"some of {', '.join(MASK_KINDS)}", list(self.kinds))


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Masked pretraining on the training splits of all sessions of a store.

    Arguments:
        model: Architecture.
        train: Training loop.
        mask: Hidden entries.
        target: Targets to decode in addition, separated by commas, in the sessions that have them; empty for none.
            Named as for `ndt finetune`: a series, ``TABLE/COLUMN``, or ``NAME=EXPRESSION`` over columns of a table.
        masked_weight: Weight of the masked loss per spike, relative to the decoding loss.
        unit_dropout: Largest fraction of units left out of a training window; the fraction is drawn anew each time.
        residual_dropout: Probability that the learned residual of a unit or context is left out, in training, so that
            the model works without it.
        embedding_lr_scale: Learning rate of the tables of units, sites and contexts over that of other parameters: each
            row is trained only by windows that contain its name.
        bin_size: Bin width in seconds; 0 for the coarsest of the sessions' own.
        window: Longest window in seconds.
        sessions: Session ids to pretrain on; empty for all that are not kept for evaluation.
        leaks: Action if another session of the store holds out what a session trains on (the same recording, a part
            of it, or some of its units): ``refuse`` or ``warn``. See `ndt.data.leaks`.
        seed: Seed of initial weights, windows and masks.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    target: str = ""
    masked_weight: float = 0.5
    unit_dropout: float = 0.5
    residual_dropout: float = 0.2
    embedding_lr_scale: float = 10.0
    bin_size: float = 0.0
    window: float = 2.0
    sessions: tuple[str, ...] = ()
    leaks: str = "refuse"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, {"bin_size": (0, 10), "window": (1e-3, 3600), "seed": (0, MOST_SEED)})
        require(self, {"embedding_lr_scale": (1e-3, 1e3), "masked_weight": (0, INF)})
        require(self, {"unit_dropout": (0, 1), "residual_dropout": (0, 1)})
        choose(self, "pretrain", leaks=("refuse", "warn"))


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tuning of a decoder for one session and one target.

    Arguments:
        strategy: Adaptation of a pretrained model: ``full`` (all parameters), ``heads`` (heads, and embeddings of units
            and contexts), ``unlabelled`` (these embeddings alone, on the masked loss, with the pretrained heads),
            ``none`` (no step: pretrained heads, and units by their activity), or ``auto``: ``full``, or ``unlabelled``
            without labels. See `ndt.finetune.strategies`.
        train: Training loop.
        model: Architecture of a model trained from scratch; a pretrained model keeps its own.
        mask: Entries that are hidden from the encoder in training.
        masked_weight: Weight of the masked loss per spike, relative to the decoding loss.
        freeze_steps: Number of first steps of ``full`` in which only heads and embeddings learn.
        backbone_lr_scale: Learning rate of the pretrained backbone after that, over the run's.
        embedding_lr_scale: Learning rate of embeddings of units, sites and contexts over the run's.
        unit_dropout: Largest fraction of units left out of a training window; the fraction is drawn anew each time.
        label_seconds: Seconds of labelled training data to use, the last before validation; 0 for all.
        bin_size: Bin width in seconds of a model trained from scratch; 0 for the session's own.
        window: Longest window in seconds of a model trained from scratch.
        max_lag: Longest history of the ridge baseline in seconds.
        auxiliary: Auxiliary targets, separated by commas, which are trained on but not predicted; ``auto`` for all
            other series of the session; empty for none.
        lags: Candidate lags in seconds by which the target follows the spikes (negative: the estimate is late); of
            several, the one with the best validation R² of ridge is chosen.
        split: Splits of this run alone, in place of the session's: ``fold:K/N``, ``first:SECONDS`` or
            ``TABLE/COLUMN``; see `ndt.data.splits.assign_splits`. Not for a session that the model was pretrained on.
        eval_mask: Table of intervals whose test bins are scored (FALCON's is ``eval_mask@end`` or ``eval_mask@start``,
            for the position of a mask sample in its bin); empty for all test bins.
        baselines: Baselines to fit; ridge (for classes per trial: logistic regression) is always among them.
        ensemble: Members of the ensemble, whose weights are chosen on validation.
        leaks: Action if the pretrained model was trained on data that the session holds out (the same recording under
            another name, or a part of it): ``refuse`` or ``warn``. See `ndt.data.leaks`.
        seed: Seed of new weights, windows and masks.
    """

    strategy: str = "auto"
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=500, valid_every=50, weight_decay=0.3))
    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(ratio=0.25, share=0.25))
    masked_weight: float = 0.2
    freeze_steps: int = 0
    backbone_lr_scale: float = 0.1
    embedding_lr_scale: float = 10.0
    unit_dropout: float = 0.0
    label_seconds: float = 0.0
    bin_size: float = 0.0
    window: float = 3.0
    max_lag: float = 1.0
    auxiliary: str = "auto"
    lags: tuple[float, ...] = (0.0,)
    split: str = ""
    eval_mask: str = ""
    baselines: tuple[str, ...] = BASELINES
    ensemble: tuple[str, ...] = ("network", *MEMBERS)
    leaks: str = "refuse"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, {"bin_size": (0, 10), "window": (1e-3, 3600), "seed": (0, MOST_SEED)})
        if not self.lags:
            raise InputError("settings", "lags", "at least one, in seconds", "none")
        if "network" not in self.ensemble or set(self.ensemble) - {"network", *MEMBERS}:
            raise InputError("settings", "ensemble", f"network, and some of {', '.join(MEMBERS)}", list(self.ensemble))
        if unknown := set(self.baselines) - set(BASELINES):
            raise InputError("settings", "baselines", f"some of {', '.join(BASELINES)}", sorted(unknown))
        require(self, {"unit_dropout": (0, 1), "embedding_lr_scale": (1e-3, 1e3)})
        require(self, {"backbone_lr_scale": (0, 100), "freeze_steps": (0, MOST_STEPS)})
        require(self, {"max_lag": (0, 3600)} | dict.fromkeys(("masked_weight", "label_seconds"), (0, INF)))
        choose(self, "finetune", leaks=("refuse", "warn"), strategy=("auto", *STRATEGIES))


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Settings of a benchmark of many runs.

    Arguments:
        data: Data sets of `ablation`, `presets` and `recordings`: some of ``m1``, ``s1``, ``chewie1``, ``chewie2``,
            ``A2929`` and, not for `recordings`, ``sim40`` (forty simulated sessions). Questions of `transfer`: some of
            ``session``, ``animal`` and ``day``.
        variants: YAML file of variants; by default the study's own in ``configs/`` of a clone.
        workers: Runs at a time, each in a process with one thread.
        pretrain: Pretraining; a variant overrides some of it, except ``train.steps``.
        finetune: Fine-tuning of `curve`, `adaptation` and `recordings`.
        label_seconds: Seconds of labelled data of the decoded session that `curve`, `adaptation` and `recordings` try.
    """

    data: tuple[str, ...] = ("sim40", "m1", "s1")
    variants: str = ""
    workers: int = 1
    pretrain: PretrainConfig = field(default_factory=lambda: PretrainConfig(train=TrainConfig(steps=800)))
    finetune: FinetuneConfig = field(
        default_factory=lambda: FinetuneConfig(train=TrainConfig(steps=200, valid_every=25))
    )
    label_seconds: tuple[float, ...] = (15.0, 30.0, 60.0, 120.0)

    def __post_init__(self) -> None:
        require(self, {"workers": (1, 4096)})
        if not self.label_seconds or min(self.label_seconds) <= 0:
            raise InputError("settings", "label_seconds", "some seconds above 0", list(self.label_seconds))


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Settings of a benchmark; each benchmark uses some of them.

    Arguments:
        repeats: Timed rounds, after an untimed one (attention, train, dynamics_cost).
        preset: Name of a file in configs/pretrain, or path of another (attention, train).
        precision: ``fp32`` or ``bf16`` (attention, train).
        seeds: Number of seeds (demo, gaps and the benchmarks of many runs).
        out: Folder of the runs; by default a temporary one. A benchmark of many runs continues an earlier call there.
        study: Settings of the benchmarks of many runs.
    """

    repeats: int = 3
    preset: str = "small"
    precision: str = "fp32"
    seeds: int = 3
    out: str = ""
    study: StudyConfig = field(default_factory=StudyConfig)

    def __post_init__(self) -> None:
        require(self, dict.fromkeys(("repeats", "seeds"), (1, 100_000)))
        if self.precision not in ("fp32", "bf16"):
            raise InputError("settings", "precision", "fp32 or bf16", self.precision)
