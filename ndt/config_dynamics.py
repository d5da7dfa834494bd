"""Settings of the dynamics heads; like all settings, importing them costs no torch."""

from dataclasses import dataclass, field

from ndt.settings import INF, choose, require

__all__ = ["BETWEEN", "HOAMConfig", "PotentialConfig"]

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
            same by the velocity of samples, where they have one; ``auto``: that where it can.
        gauge: ``mean``: the potential is 0 at the population's mean; ``none``: its level is free, as published.
        between: Where samples between snapshots come from: ``paths`` of the same particles, ``transport``: pairs of
            least cost, ``mixture`` of both snapshots, or ``snapshots``: from nowhere, nodes are the snapshots' times.
            ``auto``: paths where particles are paired, else transport where neighbouring snapshots hardly overlap,
            else a mixture.
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
    num_nodes: int = 64
    num_particles: int = 64
    num_end_particles: int = 512
    num_trajectories: int = 2
    form: str = "auto"
    gauge: str = "mean"
    between: str = "auto"
    steps: int = 2000
    learning_rate: float = 5e-3
    clip: float = 0.0
    ema: float = 0.99
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        ones = ("num_nodes", "num_particles", "num_end_particles", "num_trajectories", "steps")
        require(self, {**dict.fromkeys(ones, (1, INF)), "noise": (0, INF), "clip": (0, INF), "ema": (0, 0.9999)})
        require(self, {"learning_rate": (1e-12, INF), "threads": (0, INF), "seed": (0, INF)})
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
