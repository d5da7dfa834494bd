"""Settings of pretraining, fine-tuning, studies and benchmarks."""

from dataclasses import dataclass, field

from ndt.config.model import ModelConfig
from ndt.config.reader import INF, choose, require
from ndt.errors import InputError

__all__ = [
    "BASELINES",
    "MEMBERS",
    "STRATEGIES",
    "BenchConfig",
    "FinetuneConfig",
    "MaskConfig",
    "PretrainConfig",
    "StudyConfig",
    "TrainConfig",
]

MEMBERS = ("ridge", "gru", "naive_bayes")  # baselines that may have a share in what is delivered
STRATEGIES = ("full", "contexts", "probe", "unsupervised", "align")  # to adapt a pretrained model
BASELINES = (*MEMBERS, "wiener", "kalman", "ridge_time_gain", "time_only", "block_permuted", "circularly_shifted")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop, whatever its objective.

    Arguments:
        steps: Optimisation steps.
        batch_size: Windows a step, over all processes and micro-batches.
        micro_batches: Parts that each process takes its windows in, one after another; the step is that of the whole.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Of matrices; vectors, tables and biases have none.
        warmup_steps: Steps of linear warm-up; a cosine to a twentieth follows.
        clip: Largest gradient norm.
        ema: Decay of the average of weights that is validated and saved; 0 for none.
        valid_every: Steps between validations; each also writes a checkpoint.
        patience: Validations without improvement before stopping; 0 for never.
        precision: ``fp32``, ``bf16``, or ``auto``: bf16 on a GPU, fp32 elsewhere. No precision scales the loss.
        attention: Kernel of attention: ``auto``, ``xformers``, ``varlen``, ``flex`` or ``sdpa``; `ndt bench attention
            --list` says what each can do.
        checkpoint_activations: Whether transformer blocks are computed again for the backward pass instead of kept.
        compile: Whether the feed-forward parts of blocks go through torch.compile. Not for CPUs, where it takes minutes
            and wins nothing: it is done there, and warned of.
        sharding: ``none``: each process holds all weights; ``fsdp``: each holds its share of weights and optimiser
            state, for models too large for one. Checkpoints of a sharded run are torch's distributed ones, whose index
            is a pickle: resume only what you wrote yourself. What a run delivers is safetensors all the same.
        divergence_factor: A term of the loss above so many times its running average ends the run; 0 for never.
    """

    steps: int = 1000
    batch_size: int = 32
    micro_batches: int = 1
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    clip: float = 1.0
    ema: float = 0.98
    valid_every: int = 100
    patience: int = 0
    precision: str = "auto"
    attention: str = "auto"
    checkpoint_activations: bool = False
    compile: bool = False
    sharding: str = "none"
    divergence_factor: float = 20.0

    def __post_init__(self) -> None:
        require(self, {**dict.fromkeys(("steps", "batch_size", "valid_every"), (1, INF)), "ema": (0, 0.9999)}, "train.")
        require(self, {"micro_batches": (1, self.batch_size)}, "train.")
        require(
            self,
            {**dict.fromkeys(("learning_rate", "clip"), (1e-12, INF)), "weight_decay": (0, INF)},
            "train.",
        )
        require(self, {"warmup_steps": (0, INF), "patience": (0, INF)}, "train.")
        choose(self, "train", precision=("auto", "fp32", "bf16"))
        choose(self, "train", attention=("auto", "xformers", "varlen", "flex", "sdpa"))
        if self.sharding not in ("none", "fsdp"):
            raise InputError("settings", "train.sharding", "none or fsdp", self.sharding)
        if self.divergence_factor != 0 and not self.divergence_factor >= 2:
            raise InputError(
                "settings", "train.divergence_factor", "at least 2, or 0 for never", self.divergence_factor
            )


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What pretraining hides of a window; see `ndt.model.masking`. All but two are weights: how often each kind is drawn.

    Arguments:
        ratio: Share to hide; of whole units and of the last bins, the largest share, the share drawn anew each time.
        random_only_steps: For how many of the first steps `random`, where it has a weight, is drawn alone: others are too hard to
            begin with.
        random: Tokens (a patch in a bin) at random, as in NDT2.
        span: Runs of bins of each patch.
        unit: Whole units, throughout (co-smoothing).
        forward: The last bins (prediction).
    """

    ratio: float = 0.5
    random_only_steps: int = 200
    random: float = 1.0
    span: float = 0.0
    unit: float = 0.0
    forward: float = 0.0

    def __post_init__(self) -> None:
        kinds = ("random", "span", "unit", "forward")
        require(self, {"ratio": (0.01, 0.99), "random_only_steps": (0, INF), **dict.fromkeys(kinds, (0, INF))}, "mask.")
        if not any(getattr(self, kind) for kind in kinds):
            raise InputError("settings", "mask", f"a weight above 0 of one of: {', '.join(kinds)}", "none")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Masked pretraining on the training splits of all sessions of a store.

    Arguments:
        model: Architecture.
        train: Training loop.
        mask: Entries hidden from the encoder.
        target: Target to decode as well, in the sessions that have it; empty for spikes alone.
        decoding_weight: Weight of the decoding loss relative to the masked loss.
        embedding_lr_scale: Learning rate of unit and context embeddings relative to all other parameters; above 1,
            because each embedding learns only from the windows of its sessions.
        bin_size: Bin width in seconds; 0 for the coarsest of the sessions' own.
        window: Longest window in seconds.
        min_bins: Shorter windows are left out.
        shuffle_units: Whether units change patches from window to window: ``always``, ``never``, or ``auto``, in
            sessions that share no unit with others (spikes sorted anew each session).
        sessions: Session ids to pretrain on; empty for all that are not kept for evaluation.
        leaks: If a session trains on time that another session of the store holds out (the same recording twice, a
            slice of it, some of its units): ``refuse``, or ``warn`` and continue. See `ndt.data.leaks`.
        seed: Seed of initial weights, windows and masks.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    target: str = ""
    decoding_weight: float = 0.2
    embedding_lr_scale: float = 10.0
    bin_size: float = 0.0
    window: float = 2.0
    min_bins: int = 3
    shuffle_units: str = "auto"
    sessions: tuple[str, ...] = ()
    leaks: str = "refuse"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, {"bin_size": (0, 10), "window": (1e-3, INF), "min_bins": (1, INF), "seed": (0, INF)})
        require(self, {"decoding_weight": (0, INF), "embedding_lr_scale": (1e-3, 1e3)})
        choose(self, "pretrain", shuffle_units=("auto", "always", "never"), leaks=("refuse", "warn"))


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tuning of a decoder for one session and one target.

    Arguments:
        strategy: Parameters of a pretrained model that learn: ``full`` (all), ``contexts`` (embeddings of units and
            contexts, and the read-in of counts), ``probe`` (a linear readout of the latents), ``unsupervised``
            (embeddings, by the masked loss; the decoder is kept), ``align`` (the same, after matching new units to
            those of an earlier day), or ``auto``: ``full`` if there are labels. See `ndt.finetune.strategies`.
        align_to: Session whose units the new units are matched to; empty for the subject's last that the model was
            trained on.
        train: Training loop.
        model: Architecture of a model from scratch; a pretrained model has its own.
        decoder_steps: Steps of the decoder training stage, which follows and trains a TCN decoder alone, on fixed
            latents; its weights are kept if they are better on validation. A TCN decoder of counts from scratch
            trains in this stage only.
        readin_lr_scale: Learning rate of the read-in weights in the decoder training stage, relative to the run's.
        detach_latents: Whether the decoding loss of a ``tcn_latents`` decoder stops at the latents, so that the encoder
            learns from the masked loss alone: ``always``, ``never``, or ``auto``: for a model from scratch, whose
            encoder would overfit a single session's labels.
        freeze_steps: First steps in which pretrained parameters (the backbone, and a decoder of the same target) are
            frozen; about three quarters of all steps work best.
        backbone_lr_scale: Learning rate of pretrained parameters after that, relative to the run's; 0 freezes them.
        embedding_lr_scale: Learning rate of unit and context embeddings, relative to the run's.
        fresh_contexts: Whether unknown contexts start at random; else at the mean of the known ones.
        embedding_warmup_steps: First steps that train only unit and context embeddings, on the masked loss alone, if
            the session has unknown units.
        mask_ratio: Fraction of patches hidden from the encoder in training.
        masked_weight: Weight of the masked loss relative to the decoding loss.
        unit_dropout: Largest fraction of units left out of a training window; the fraction is drawn for each window.
        label_seconds: Seconds of labelled training data to use, the last before validation; 0 for all.
        bin_size: Bin width in seconds of a model from scratch; 0 for the session's own.
        window: Longest window in seconds of a model from scratch.
        min_bins: Shorter windows are left out.
        max_lag: Longest history of the ridge baseline in seconds.
        auxiliary: Auxiliary targets, separated by commas: other behaviour that a TCN decoder is trained to predict as
            well, such as hand position for hand velocity. ``auto`` for all other series; empty for none.
        auxiliary_weight: Weight of the loss of auxiliary targets relative to the decoding loss.
        lags: Candidate lags of the target behind the spikes, in seconds; the one with the best validation R² of ridge
            is used. With a negative lag the decoder estimates past behaviour.
        split: Splits of this run alone, for a model from scratch: ``fold:K/N``, ``first:SECONDS`` or ``TABLE/COLUMN``;
            see `ndt.data.splits.assign_splits`. Empty for the session's own.
        eval_mask: Table of intervals within which test bins are scored, and the time in a bin that must lie within one
            (FALCON: ``eval_mask@end`` or ``eval_mask@start``); empty for all test bins.
        baselines: Baselines to fit; ridge is always fitted.
        ensemble: Candidate ensemble members; ensemble weights are fitted on validation.
        leaks: If the pretrained model was trained on time that the session holds out (the same recording under another
            name, or a slice of it): ``refuse``, or ``warn`` and continue. See `ndt.data.leaks`.
        seed: Seed of new weights, windows and masks.
    """

    strategy: str = "auto"
    align_to: str = ""
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=100, valid_every=25))
    model: ModelConfig = field(default_factory=ModelConfig)
    decoder_steps: int = 400
    readin_lr_scale: float = 50.0
    detach_latents: str = "auto"
    freeze_steps: int = 75
    backbone_lr_scale: float = 0.1
    embedding_lr_scale: float = 10.0
    fresh_contexts: bool = False
    embedding_warmup_steps: int = 20
    mask_ratio: float = 0.2
    masked_weight: float = 0.5
    unit_dropout: float = 0.4
    label_seconds: float = 0.0
    bin_size: float = 0.0
    window: float = 3.0
    min_bins: int = 3
    max_lag: float = 1.0
    auxiliary: str = "auto"
    auxiliary_weight: float = 0.3
    lags: tuple[float, ...] = (0.0,)
    split: str = ""
    eval_mask: str = ""
    baselines: tuple[str, ...] = BASELINES
    ensemble: tuple[str, ...] = ("network", "ridge", "gru", "naive_bayes")
    leaks: str = "refuse"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, {"bin_size": (0, 10), "window": (1e-3, INF), "min_bins": (1, INF), "seed": (0, INF)})
        if not self.lags:
            raise InputError("settings", "lags", "at least one, in seconds", "none")
        if "network" not in self.ensemble or set(self.ensemble) - {"network", *MEMBERS}:
            raise InputError("settings", "ensemble", f"network, and some of {', '.join(MEMBERS)}", list(self.ensemble))
        if unknown := set(self.baselines) - set(BASELINES):
            raise InputError("settings", "baselines", f"some of {', '.join(BASELINES)}", sorted(unknown))
        require(self, {"mask_ratio": (0, 0.99), "unit_dropout": (0, 1), "embedding_warmup_steps": (0, INF)})
        require(self, {"backbone_lr_scale": (0, 100), "freeze_steps": (0, INF), "embedding_lr_scale": (1e-3, 1e3)})
        require(self, {"decoder_steps": (0, INF), "auxiliary_weight": (0, INF), "readin_lr_scale": (1e-3, 1e3)})
        require(self, {"masked_weight": (0, INF), "label_seconds": (0, INF), "max_lag": (0, INF)})
        choose(self, "finetune", leaks=("refuse", "warn"), strategy=("auto", *STRATEGIES))
        choose(self, "finetune", detach_latents=("auto", "always", "never"))


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Settings of a benchmark of many runs.

    Arguments:
        data: Data sets of `ablation`, `presets` and `recordings`: some of ``m1``, ``s1``, ``chewie1``, ``chewie2``,
            ``A2929`` and, not for `recordings`, ``sim40`` (forty simulated sessions).
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
        default_factory=lambda: FinetuneConfig(train=TrainConfig(steps=200, valid_every=25), freeze_steps=150)
    )
    label_seconds: tuple[float, ...] = (15.0, 30.0, 60.0, 120.0)

    def __post_init__(self) -> None:
        require(self, {"workers": (1, INF)})
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
        require(self, dict.fromkeys(("repeats", "seeds"), (1, INF)))
        if self.precision not in ("fp32", "bf16"):
            raise InputError("settings", "precision", "fp32 or bf16", self.precision)
