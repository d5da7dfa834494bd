"""Settings of the dynamics heads; like all settings, importing them costs no torch."""

from dataclasses import dataclass, field

from ndt.errors import InputError
from ndt.settings import INF, choose, require

__all__ = [
    "BASELINES",
    "BETWEEN",
    "DynamicsConfig",
    "FirstOrderConfig",
    "FunctionalConfig",
    "HOAMConfig",
    "PerTimeConfig",
    "PotentialConfig",
    "TERMS",
    "TrialsConfig",
    "WLMConfig",
]

TERMS = ("external", "fourier", "pairwise", "attention", "sets")
LEARNED = ("hoam", "monte_carlo", "flow", "diffusion", "flow_matching", "gradient_flow")
BASELINES = (*LEARNED, "still", "constant_velocity", "straight")
VELOCITIES = ("auto", "observed", "zero", "matched", "learned", "downhill")
BETWEEN = ("auto", "paths", "transport", "mixture", "snapshots")


@dataclass(frozen=True, kw_only=True)
class PotentialConfig:
    """The network of a potential s(x; t, mu); see `ndt.dynamics.potentials`.

    Arguments:
        kind: How time and parameters enter: ``colora`` scales low-rank parts of the weights, ``film`` scales and shifts
            hidden units, ``concat`` appends them to x.
        width: Width of hidden layers.
        depth: Number of layers.
        rank: Rank of CoLoRA's parts.
        time_frequencies: Sines and cosines of time that a condition is made of; with 0 it is time itself.
        harmonics: Sines and cosines of each periodic dimension.
        quadratic: Whether a quadratic form, its coefficients functions of time and parameters, is added: it moves mean
            and covariance, and leaves the rest to the network.
    """

    kind: str = "colora"
    width: int = 32
    depth: int = 5
    rank: int = 4
    time_frequencies: int = 8
    harmonics: int = 3
    quadratic: bool = True

    def __post_init__(self) -> None:
        require(self, dict.fromkeys(("width", "depth", "rank", "harmonics"), (1, INF)), "potential.")
        require(self, {"time_frequencies": (0, INF)}, "potential.")
        choose(self, "potential", kind=("colora", "film", "concat"))


@dataclass(frozen=True, kw_only=True)
class HOAMConfig:
    """Higher-order action matching; see `ndt.dynamics.hoam`.

    Arguments:
        potential: The network.
        noise: Diffusion eps of the process that is simulated, dX = grad s dt + eps dW; 0 for none.
        rule: How time is integrated: ``stratified``, ``antithetic``, ``random_panels`` or ``monte_carlo``, drawn anew
            each step, or the paper's ``simpson`` and ``gauss_legendre``, ``trapezoid`` or ``clenshaw_curtis``.
        num_nodes: Nodes in time a step.
        num_particles: Particles a node.
        num_end_particles: Particles at each end of the interval.
        num_trajectories: Trajectories a step, drawn without replacement.
        form: ``action``: the loss as published, by the potential's change in time and at both ends; ``velocity``: the
            same by the velocity of samples, where they have one; ``auto``: that where it can and paths do not jitter.
        gauge: ``mean``: the potential is 0 at the population's mean; ``none``: its level is free, as published.
        between: Where samples between snapshots come from: ``paths`` of the same particles, ``transport``: pairs of
            least cost, ``mixture`` of both snapshots, or ``snapshots``: from nowhere, nodes are the snapshots' times.
            ``auto``: paths where particles are paired, else transport where neighbouring snapshots hardly overlap,
            else a mixture.
        held_back: Share of samples that no step sees and weights are chosen by; of snapshots of less than 200, none.
        steps: Optimisation steps.
        learning_rate: Of Adam; a cosine to 0 follows a short warm-up.
        clip: Largest norm of a gradient; 0 for none.
        ema: Decay of the average of weights that is kept.
        threads: Threads of torch; 0 leaves them as they are.
        seed: Seed of weights, nodes and particles.
    """

    potential: PotentialConfig = field(default_factory=PotentialConfig)
    noise: float = 0.0
    rule: str = "stratified"
    num_nodes: int = 32
    num_particles: int = 128
    num_end_particles: int = 512
    num_trajectories: int = 2
    form: str = "auto"
    gauge: str = "mean"
    between: str = "auto"
    held_back: float = 0.1
    steps: int = 2000
    learning_rate: float = 5e-3
    clip: float = 0.0
    ema: float = 0.99
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        ones = ("num_nodes", "num_particles", "num_end_particles", "num_trajectories", "steps")
        require(self, {**dict.fromkeys(ones, (1, INF)), "noise": (0, INF), "clip": (0, INF), "ema": (0, 0.9999)})
        require(self, {"learning_rate": (1e-12, INF), "threads": (0, INF), "seed": (0, INF), "held_back": (0, 0.5)})
        rules = ("stratified", "antithetic", "random_panels", "monte_carlo")
        fixed = ("trapezoid", "simpson", "gauss_legendre", "clenshaw_curtis")
        choose(
            self,
            "",
            rule=(*rules, *fixed),
            gauge=("mean", "none"),
            form=("auto", "action", "velocity"),
            between=BETWEEN,
        )


@dataclass(frozen=True, kw_only=True)
class FunctionalConfig:
    """Potential functionals of a population; see `ndt.dynamics.functionals`.

    Arguments:
        terms: Which are learned, of ``external``, ``fourier``, ``pairwise``, ``attention`` and ``sets``.
        potential: The network of ``external``.
        width: Width of the other networks.
        depth: Layers of attention.
        heads: Heads of attention; they divide the width.
        use_time: Whether the external potential may change in time. It can then take friction's part.
        waves: Fourier features of ``fourier``; with 0 it is a quadratic form.
        entropy: Temperature T of the entropy, in squared units of x over those of time, squared; 0 for none. In the
            scale of mobility, where friction rules, it is half the squared noise, in squared units of x over time.
        learn_entropy: Whether that is where it begins, and it is learned.
        fisher: Planck's constant of the Fisher term, in squared units of x over time; 0 for none.
        density: What both take logarithms of: ``gaussian``, of the samples' moments, or ``kernel``.
    """

    terms: tuple[str, ...] = ("external",)
    potential: PotentialConfig = field(default_factory=PotentialConfig)
    width: int = 64
    depth: int = 1
    heads: int = 4
    use_time: bool = False
    waves: int = 96
    entropy: float = 0.0
    learn_entropy: bool = False
    fisher: float = 0.0
    density: str = "kernel"

    def __post_init__(self) -> None:
        require(self, {**dict.fromkeys(("width", "depth", "heads"), (1, INF)), "waves": (0, INF)}, "functional.")
        require(self, dict.fromkeys(("entropy", "fisher"), (0, INF)), "functional.")
        choose(self, "functional", density=("gaussian", "kernel"))
        for name in self.terms:
            if name not in TERMS:
                raise InputError("settings", "functional.terms", f"some of {', '.join(TERMS)}", name)
        if self.width % self.heads:
            raise InputError("settings", "functional.heads", f"a divisor of the width {self.width}", self.heads)


@dataclass(frozen=True, kw_only=True)
class WLMConfig:
    """Wasserstein Lagrangian mechanics; see `ndt.dynamics.wlm`.

    Arguments:
        functional: The potential functional.
        friction: Friction gamma at first, per unit of time; 0 stays 0.
        learn_friction: Whether it is learned.
        scale: ``physical``, or ``mobility``: forces times 1 + gamma, so that friction may grow without bound.
        velocity: Velocities that particles begin with: ``observed``, ``zero``, ``matched`` (the gradient field of
            action matching on the same snapshots), ``learned`` (a network, at each trajectory's first snapshot);
            ``downhill`` (as in a gradient flow: the force, at any snapshot); ``auto``: observed where they are known,
            else matched.
        matching: Action matching, where velocities come of it.
        balance_steps: Steps by the balance of momentum before the first rollout (`ndt.dynamics.momentum`); 0 for none.
            A potential that is linear is solved for, whatever their number.
        restarts: Whether rollouts begin at any snapshot whose velocities are known, and not at the first alone.
        horizon: Most snapshots that a rollout passes, drawn anew each step; 0 for all that are left.
        loss: ``assignment``, ``sinkhorn``, ``energy``, ``sliced``, or ``auto``, by the number of samples.
        num_particles: Most particles of a rollout; drawn anew each step.
        step: Longest step of the solver; 0 for a fifth of the shortest time between snapshots.
        steps: Optimisation steps.
        learning_rate: Of Adam; a cosine to 0 follows a short warm-up.
        clip: Largest norm of a gradient; 0 for none.
        ema: Decay of the average of weights that is kept.
        threads: Threads of torch; 0 leaves them as they are.
        seed: Seed of weights and draws.
    """

    functional: FunctionalConfig = field(default_factory=FunctionalConfig)
    friction: float = 0.1
    learn_friction: bool = True
    scale: str = "physical"
    velocity: str = "auto"
    matching: HOAMConfig = field(default_factory=lambda: HOAMConfig(steps=400))
    balance_steps: int = 0
    restarts: bool = True
    horizon: int = 0
    loss: str = "auto"
    num_particles: int = 256
    step: float = 0.0
    steps: int = 800
    learning_rate: float = 5e-3
    clip: float = 1.0
    ema: float = 0.98
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, {"num_particles": (2, INF), "steps": (1, INF), "horizon": (0, INF), "step": (0, INF)})
        require(self, {"balance_steps": (0, INF)})
        require(self, {"friction": (0, INF), "clip": (0, INF), "ema": (0, 0.9999), "learning_rate": (1e-12, INF)})
        require(self, {"threads": (0, INF), "seed": (0, INF)})
        choose(
            self, "", scale=("physical", "mobility"), velocity=VELOCITIES,
            loss=("auto", "assignment", "sinkhorn", "energy", "sliced"),
        )  # fmt: skip
        if self.velocity == "downhill" and self.scale != "mobility":
            raise InputError(
                "settings", "scale", "mobility, where velocity is downhill: forces are velocities", self.scale
            )


@dataclass(frozen=True, kw_only=True)
class FirstOrderConfig:
    """Flow matching along transport, and gradient flows; see `ndt.dynamics.first_order`.

    Arguments:
        width: Width of the velocity's hidden layers.
        depth: Number of its layers.
        waves: Fourier features of the gradient flow's potential.
        batch_size: Samples a step.
        steps: Optimisation steps of flow matching.
        learning_rate: Of Adam; a cosine to 0 follows a short warm-up.
        clip: Largest norm of a gradient; 0 for none.
        ema: Decay of the average of weights that is kept.
        threads: Threads of torch; 0 leaves them as they are.
        seed: Seed of weights, features and draws.
    """

    width: int = 64
    depth: int = 4
    waves: int = 96
    batch_size: int = 1024
    steps: int = 1500
    learning_rate: float = 3e-3
    clip: float = 0.0
    ema: float = 0.99
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self, {**dict.fromkeys(("width", "batch_size", "steps"), (1, INF)), "waves": (0, INF), "depth": (2, INF)}
        )
        require(self, {"learning_rate": (1e-12, INF), "clip": (0, INF), "ema": (0, 0.9999)})
        require(self, {"threads": (0, INF), "seed": (0, INF)})


@dataclass(frozen=True, kw_only=True)
class PerTimeConfig:
    """A generative model that draws each time's population anew; see `ndt.dynamics.per_time`.

    Arguments:
        objective: ``flow``: conditional flow matching; ``diffusion``, by a cosine schedule.
        width: Width of hidden layers.
        depth: Number of layers.
        time_frequencies: Sines and cosines of time and of noise.
        batch_size: Samples a step, each of a snapshot of its own.
        steps: Optimisation steps.
        learning_rate: Of Adam; a cosine to 0 follows a short warm-up.
        clip: Largest norm of a gradient; 0 for none.
        ema: Decay of the average of weights that is kept.
        solver_steps: Steps from noise to a population.
        threads: Threads of torch; 0 leaves them as they are.
        seed: Seed of weights and batches.
    """

    objective: str = "flow"
    width: int = 128
    depth: int = 4
    time_frequencies: int = 8
    batch_size: int = 1024
    steps: int = 2000
    learning_rate: float = 3e-3
    clip: float = 0.0
    ema: float = 0.99
    solver_steps: int = 50
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        ones = ("width", "depth", "batch_size", "steps", "solver_steps")
        require(self, {**dict.fromkeys(ones, (1, INF)), "time_frequencies": (0, INF), "ema": (0, 0.9999)})
        require(self, {"learning_rate": (1e-12, INF), "clip": (0, INF), "threads": (0, INF), "seed": (0, INF)})
        choose(self, "", objective=("flow", "diffusion"))


@dataclass(frozen=True, kw_only=True)
class TrialsConfig:
    """How latents that ``ndt embed`` exported become a population of trials; see `ndt.dynamics.latents`.

    Arguments:
        nwb: The NWB file of the session, whose table of trials is read.
        event: ``start_time`` or ``stop_time``, from which each trial is taken.
        duration: Seconds of each.
        num_components: Principal components.
        smooth: Window in seconds of the cubics that latents and their velocities are taken from; 0 for none.
    """

    nwb: str = ""
    event: str = "start_time"
    duration: float = 1.0
    num_components: int = 3
    smooth: float = 0.0

    def __post_init__(self) -> None:
        require(self, {"duration": (1e-3, INF), "num_components": (1, INF), "smooth": (0, INF)}, "trials.")
        choose(self, "trials", event=("start_time", "stop_time"))


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """``ndt dynamics fit``: a method, and what it is compared with.

    Arguments:
        method: ``hoam``: first-order, by action matching; ``wlm``: second-order, by Lagrangian mechanics.
        hoam: Settings of the first.
        wlm: Settings of the second.
        baselines: What is fitted beside, of `BASELINES`: ``hoam``, ``monte_carlo`` (action matching with independent
            nodes and a free level, as it was first published), ``flow`` and ``diffusion`` (a generative model for each
            time), ``flow_matching`` (along transport from time to time), ``gradient_flow``, and, without a fit,
            ``still`` (nothing moves), ``constant_velocity`` (samples go on as they were seen to) and ``straight`` (as
            transport from the snapshot before says).
        first_order: Settings of flow matching and gradient flows.
        per_time: Settings of generative models.
        trials: How latents of ``ndt embed`` become trials.
        held_out_times: Times of a file whose snapshots are kept from fitting, besides those that it says itself.
        begin: What scores begin at: the ``first`` snapshot of each trajectory, or the ``last`` that was fitted.
        num_particles: Samples of a snapshot, where a system is simulated.
        solver: ``heun``, ``euler`` or ``rk4``, of action matching.
        solver_step: Longest step of the solver; 0 for a five-hundredth of the span.
        num_scored: Samples of a snapshot that scores are made with; 0 for all.
    """

    method: str = "hoam"
    hoam: HOAMConfig = field(default_factory=HOAMConfig)
    wlm: WLMConfig = field(default_factory=WLMConfig)
    baselines: tuple[str, ...] = ("still",)
    first_order: FirstOrderConfig = field(default_factory=FirstOrderConfig)
    per_time: PerTimeConfig = field(default_factory=PerTimeConfig)
    trials: TrialsConfig = field(default_factory=TrialsConfig)
    held_out_times: tuple[float, ...] = ()
    begin: str = "first"
    num_particles: int = 4000
    solver: str = "heun"
    solver_step: float = 0.0
    num_scored: int = 2000

    def __post_init__(self) -> None:
        choose(self, "", method=("hoam", "wlm"), solver=("heun", "euler", "rk4"), begin=("first", "last"))
        require(self, {"num_particles": (2, INF), "num_scored": (0, INF), "solver_step": (0, INF)})
        for name in self.baselines:
            if name not in BASELINES:
                raise InputError("settings", "baselines", f"some of {', '.join(BASELINES)}", name)

    @property
    def seed(self) -> int:
        """Seed of the run: that of its method, of systems that are simulated, and of what it is compared with."""
        return (self.wlm if self.method == "wlm" else self.hoam).seed
