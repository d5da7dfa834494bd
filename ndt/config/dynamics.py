"""Settings of the dynamics models; importing them does not import torch."""

from dataclasses import dataclass, field

from ndt.config.reader import INF, MOST_SEED, MOST_STEPS, choose, require
from ndt.errors import InputError

__all__ = [
    "BASELINES", "DynamicsConfig", "FunctionalConfig", "HOAMConfig", "PotentialConfig", "TrialsConfig", "WLMConfig",
]  # fmt: skip

TERMS = ("external", "fourier", "pairwise", "attention", "deep_sets")
BASELINES = (
    "hoam", "action_matching", "conditional_flow_matching", "conditional_diffusion", "flow_matching", "gradient_flow",
    "persistence", "constant_velocity", "linear_extrapolation",
)  # fmt: skip
VELOCITIES = ("auto", "observed", "zero", "action_matching", "learned", "gradient_flow")
MOST_SAMPLES = 10_000_000
INTERPOLANTS = ("auto", "paths", "transport", "mixture", "snapshots")


@dataclass(frozen=True, kw_only=True)
class PotentialConfig:
    """Network of a potential s(x; t, mu); see `ndt.dynamics.potentials`.

    Arguments:
        kind: How time and parameters enter: ``colora`` scales low-rank parts of the weights, ``film`` scales and shifts
            hidden units, ``concat`` appends them to x.
        width: Width of the hidden layers.
        depth: Number of layers.
        time_frequencies: Number of sine-cosine pairs of time in the condition; 0 for none.
        harmonics: Number of sine-cosine pairs of each periodic dimension.
    """

    kind: str = "colora"
    width: int = 32
    depth: int = 5
    time_frequencies: int = 8
    harmonics: int = 3

    def __post_init__(self) -> None:
        require(self, {"width": (1, 8192), "depth": (1, 100), "harmonics": (1, 1000)}, "potential.")
        require(self, {"time_frequencies": (0, 1000)}, "potential.")
        choose(self, "potential", kind=("colora", "film", "concat"))


@dataclass(frozen=True, kw_only=True)
class HOAMConfig:
    """Higher-order action matching; see `ndt.dynamics.hoam`.

    Arguments:
        potential: Network of the potential.
        noise: Diffusion eps of the simulated process, dX = grad s dt + eps dW; 0 for an ordinary equation.
        rule: Quadrature in time. ``stratified`` and ``monte_carlo`` draw new nodes each step; ``simpson`` and
            ``gauss_legendre``, the published rules, keep their nodes.
        num_nodes: Nodes in time per step.
        num_particles: Samples per node.
        num_trajectories: Trajectories per step, drawn without replacement.
        form: ``action``: the published loss, with the potential's time derivative and end terms; ``velocity``: the
            equivalent regression on sample velocities; ``auto``: ``velocity`` if samples have velocities and their
            paths are smooth, else ``action``.
        gauge: ``mean`` sets the potential to 0 at the population's mean; ``none`` leaves its level free, as published.
        interpolant: Interpolant between snapshots: ``paths`` of paired particles, ``transport`` (optimal-transport
            pairs), ``mixture`` of both snapshots, or ``snapshots`` (none: the nodes are the snapshot times). ``auto``:
            paths if particles are paired, else transport if neighbouring snapshots hardly overlap, else a mixture.
        steps: Optimisation steps.
    """

    potential: PotentialConfig = field(default_factory=PotentialConfig)
    noise: float = 0.0
    rule: str = "stratified"
    num_nodes: int = 32
    num_particles: int = 128
    num_trajectories: int = 2
    form: str = "auto"
    gauge: str = "mean"
    interpolant: str = "auto"
    steps: int = 2000

    def __post_init__(self) -> None:
        require(self, {"num_nodes": (1, 10_000), "steps": (1, MOST_STEPS), "noise": (0, INF)})
        require(self, dict.fromkeys(("num_particles", "num_trajectories"), (1, MOST_SAMPLES)))
        choose(
            self, "", rule=("stratified", "monte_carlo", "simpson", "gauss_legendre"), gauge=("mean", "none"),
            form=("auto", "action", "velocity"), interpolant=INTERPOLANTS,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FunctionalConfig:
    """Potential functionals of a population; see `ndt.dynamics.functionals`.

    Arguments:
        terms: Learned terms, of ``external``, ``fourier``, ``pairwise``, ``attention`` and ``deep_sets``.
        potential: Network of ``external``.
        width: Width of the other networks, a multiple of 4.
        use_time: Whether the external potential depends on time; it can then absorb friction.
        fourier_features: Number of random Fourier features of ``fourier``; 0 for a quadratic form.
        entropy: Temperature T of the entropy term, in squared units of x over squared time; 0 for none. In the
            ``mobility`` scale at high friction it is half the squared noise, in squared units of x over time.
        fisher: Planck's constant of the Fisher-information term, in squared units of x over time; 0 for none.
        density: Density estimate of both terms: ``gaussian``, of the sample moments, or ``kernel``.
    """

    terms: tuple[str, ...] = ("external",)
    potential: PotentialConfig = field(default_factory=PotentialConfig)
    width: int = 64
    use_time: bool = False
    fourier_features: int = 96
    entropy: float = 0.0
    fisher: float = 0.0
    density: str = "kernel"

    def __post_init__(self) -> None:
        require(self, {"width": (1, 8192), "fourier_features": (0, 100_000)}, "functional.")
        require(self, dict.fromkeys(("entropy", "fisher"), (0, INF)), "functional.")
        choose(self, "functional", density=("gaussian", "kernel"))
        for name in self.terms:
            if name not in TERMS:
                raise InputError("settings", "functional.terms", f"some of {', '.join(TERMS)}", name)
        if self.width % 4:
            raise InputError("settings", "functional.width", "a multiple of 4, the number of heads", self.width)


@dataclass(frozen=True, kw_only=True)
class WLMConfig:
    """Wasserstein Lagrangian mechanics; see `ndt.dynamics.wlm`.

    Arguments:
        functional: Potential functional.
        friction: Initial friction gamma, per unit of time. It is learned; 0 stays 0.
        scale: ``physical``, or ``mobility``: forces times 1 + gamma, so that friction may grow without bound.
        velocity: Initial velocities of particles: ``observed``, ``zero``, ``action_matching`` (gradient field of action
            matching on the same snapshots), ``learned`` (a network, at the first snapshot of each trajectory),
            ``gradient_flow`` (the force); ``auto``: ``observed`` if known, else ``action_matching``.
        action_matching: Settings of action matching, if it provides velocities.
        weak_form_steps: Steps on the weak form of the momentum balance before the first rollout
            (`ndt.dynamics.weak_form`); 0 for none. A linear potential is solved for in one step.
        restarts: Whether rollouts start at any snapshot with known velocities, not at the first alone.
        horizon: Longest rollout in snapshots; its length is drawn each step. 0 for no limit.
        loss: ``assignment``, ``sinkhorn``, ``energy``, ``sliced``, or ``auto``, by the number of samples.
        num_particles: Most particles of a rollout, drawn each step.
        step: Longest step of the solver; 0 for a fifth of the shortest interval between snapshots.
        steps: Optimisation steps.
        learning_rate: Peak learning rate of Adam.
    """

    functional: FunctionalConfig = field(default_factory=FunctionalConfig)
    friction: float = 0.1
    scale: str = "physical"
    velocity: str = "auto"
    action_matching: HOAMConfig = field(default_factory=lambda: HOAMConfig(steps=400))
    weak_form_steps: int = 0
    restarts: bool = True
    horizon: int = 0
    loss: str = "auto"
    num_particles: int = 256
    step: float = 0.0
    steps: int = 800
    learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        require(self, {"num_particles": (2, MOST_SAMPLES), "steps": (1, MOST_STEPS), "learning_rate": (1e-12, INF)})
        require(self, dict.fromkeys(("horizon", "weak_form_steps"), (0, MOST_STEPS)))
        require(self, dict.fromkeys(("step", "friction"), (0, INF)))
        choose(
            self, "", scale=("physical", "mobility"), velocity=VELOCITIES,
            loss=("auto", "assignment", "sinkhorn", "energy", "sliced"),
        )  # fmt: skip
        if self.velocity == "gradient_flow" and self.scale != "mobility":
            raise InputError("settings", "scale", "mobility, if velocity is gradient_flow", self.scale)


@dataclass(frozen=True, kw_only=True)
class TrialsConfig:
    """How latents written by ``ndt embed`` become a population of trials; see `ndt.dynamics.latents`.

    Arguments:
        nwb: NWB file of the session, which holds the table of trials.
        duration: Length of each trial from its start, in seconds.
        num_components: Number of principal components.
        smooth: Window of the Savitzky-Golay filter for latents and velocities, in seconds; 0 for none.
    """

    nwb: str = ""
    duration: float = 1.0
    num_components: int = 3
    smooth: float = 0.0

    def __post_init__(self) -> None:
        require(self, {"duration": (1e-3, INF), "num_components": (1, 10_000), "smooth": (0, INF)}, "trials.")


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """Settings of ``ndt dynamics fit``: the method and its baselines.

    Arguments:
        method: ``hoam``: first-order dynamics, by action matching; ``wlm``: second-order, by Lagrangian mechanics.
        hoam: Settings of the first.
        wlm: Settings of the second.
        baselines: Models to compare with, of `BASELINES`; `ndt.dynamics.methods` describes them.
        trials: How latents of ``ndt embed`` become trials.
        held_out_times: Snapshot times that are held out, besides those that the file marks.
        forecast_from: Where simulations start: at the ``first`` snapshot of each trajectory or the ``last`` fitted one.
        num_particles: Samples per snapshot of a simulated system.
        num_scored: Most samples per snapshot that are scored; 0 for all.
        seed: Seed of models, simulated systems and baselines.
    """

    method: str = "hoam"
    hoam: HOAMConfig = field(default_factory=HOAMConfig)
    wlm: WLMConfig = field(default_factory=WLMConfig)
    baselines: tuple[str, ...] = ("persistence",)
    trials: TrialsConfig = field(default_factory=TrialsConfig)
    held_out_times: tuple[float, ...] = ()
    forecast_from: str = "first"
    num_particles: int = 4000
    num_scored: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        choose(self, "", method=("hoam", "wlm"), forecast_from=("first", "last"))
        require(self, {"num_particles": (2, MOST_SAMPLES), "num_scored": (0, MOST_SAMPLES), "seed": (0, MOST_SEED)})
        for name in self.baselines:
            if name not in BASELINES:
                raise InputError("settings", "baselines", f"some of {', '.join(BASELINES)}", name)
