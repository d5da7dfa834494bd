"""The simulated population: latent dynamics that all recordings share, and tuning that each unit has for itself."""

from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

__all__ = [
    "BIN_SIZE",
    "ROTATION_HZ",
    "STEP",
    "Tuning",
    "rotating_latents",
    "simulate_latents",
    "spike_times",
    "transition",
    "velocity",
]

STEP = 0.01  # seconds over which rates are constant
BIN_SIZE = 0.05  # seconds between samples of the cursor; a whole number of steps

# Chosen by ridge's and the oracle's R² alone, before any network was trained on these recordings, and frozen since.
FREQUENCY = 4.5  # rad/s: turning of intended velocity into its quadrature partner and back
DAMPING = 0.6  # of that turning; intended velocity is correlated over some 0.4 s
SLOW_SECONDS = 6.0  # correlation time of the slow modulation of gain
OTHER_SECONDS = (0.6, 2.0, 0.25, 5.0)  # correlation times of what else moves the population, taken in turn

ROTATION_HZ = 1.6  # of the rotational population, within trials; motor cortex turns at 1 to 3 Hz in reaches
ROTATION_SECONDS = 3.0  # in which it decays
PREPARED = (1.6, 0.0, 0.0, 1.2)  # latents 0 to 3 where a trial begins, on average over trials
PREPARED_SPREAD = 0.4  # standard deviation over trials

TOP_SPEED = 25.0  # cm/s, approached by fast intended velocities
SATURATION = 1.6  # largest deviation of a log rate from its unit's baseline
DEPTHS = (0.4, 0.25, 0.4, 0.45)  # of tuning to v, to a, to the slow modulation, to the other latents
GAIN = 0.3  # standard deviation over units
TURN = (0.6, 0.3)  # mean and standard deviation over units, in rad
SPEED = 0.3  # standard deviation over units
LINEAR_RATE = 5.0  # rates of the linear-Gaussian population over `mean_rate_hz`
LINEAR_DEPTH = 0.3  # standard deviation of its rates, over their mean

Array = NDArray[np.float64]


def transition(num_latents: int, seconds: float) -> Array:
    r"""Returns F with :math:`z_{t + s} = F z_t + w`, shape (K, K); w has covariance :math:`I - F F^\top`.

    Latents 0 and 1 are intended velocity v, latents 2 and 3 its quadrature partner a:

    .. math:: dv = \omega a \, dt, \qquad da = -\omega v \, dt - 2 \zeta \omega a \, dt + \sqrt{4 \zeta \omega} \, dW

    Latent 4 is a slow modulation, the others move the population without moving the cursor; all of these are
    Ornstein-Uhlenbeck. Every latent has mean 0 and variance 1, and at any one time they are independent.
    """
    drift = np.zeros((num_latents, num_latents))
    for v, a in ((0, 2), (1, 3)):
        drift[v, a], drift[a, v], drift[a, a] = FREQUENCY, -FREQUENCY, -2 * DAMPING * FREQUENCY
    for k in range(4, num_latents):
        drift[k, k] = -1 / (SLOW_SECONDS if k == 4 else OTHER_SECONDS[(k - 5) % len(OTHER_SECONDS)])

    return np.asarray(expm(drift * seconds), np.float64)


def simulate_latents(num_latents: int, num_steps: int, rng: np.random.Generator) -> Array:
    """Returns a stationary path of the latents in steps of `STEP`, shape (num_steps, K)."""
    F = transition(num_latents, STEP)
    values, vectors = np.linalg.eigh(np.eye(num_latents) - F @ F.T)  # singular but for rounding: v has no noise itself
    noise = rng.standard_normal((num_steps, num_latents)) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    z = np.empty((num_steps, num_latents))
    z[0] = rng.standard_normal(num_latents)
    for t in range(1, num_steps):
        z[t] = F @ z[t - 1] + noise[t]

    return z


def rotating_latents(z: Array, trials: Array, rng: np.random.Generator) -> Array:
    """Returns latents of which 0 to 3 rotate within trials, each from a state of its own, the others as they were.

    A trial begins near `PREPARED`; (0, 2) and (1, 3) turn at `ROTATION_HZ` and decay. Between trials they go straight
    to where the next begins. Reference: Churchland et al. (2012), Neural population dynamics during reaching,
    https://doi.org/10.1038/nature11129

    Arguments:
        z: Latents to begin with, shape (T, K), in steps of `STEP`.
        trials: First and last step of each trial, which do not overlap, shape (M, 2).
        rng: What the states are drawn with.
    """
    z = z.copy()
    begin = np.array(PREPARED) + PREPARED_SPREAD * rng.standard_normal((len(trials), 4))
    knots, states = [0], [begin[0] if len(begin) else np.zeros(4)]
    for (first, last), state in zip(trials.tolist(), begin, strict=True):
        t = np.arange(last - first + 1) * STEP
        angle, left = 2 * np.pi * ROTATION_HZ * t, np.exp(-t / ROTATION_SECONDS)
        for v, a in ((0, 2), (1, 3)):
            z[first : last + 1, v] = left * (state[v] * np.cos(angle) + state[a] * np.sin(angle))
            z[first : last + 1, a] = left * (state[a] * np.cos(angle) - state[v] * np.sin(angle))
        knots += [first, last]
        states += [state, z[last, :4].copy()]
    within = np.zeros(len(z), bool)
    for first, last in trials.tolist():
        within[first : last + 1] = True
    steps = np.arange(len(z))
    for k in range(4):
        straight = np.interp(steps, knots, np.stack(states)[:, k])
        z[:, k] = np.where(within, z[:, k], straight)

    return z


def velocity(z: Array, dynamics: str) -> Array:
    """Returns cursor velocity in cm/s, shape (T, 2): intended velocity, saturating with speed unless linear."""
    v = z[:, :2]
    if dynamics == "linear_gaussian":
        return v * TOP_SPEED / 2

    saturating: Array = TOP_SPEED * v / np.sqrt(4 + np.sum(v**2, 1, keepdims=True))

    return saturating


@lru_cache(maxsize=8)
def _stationary(num_latents: int) -> Array:
    """Latents drawn from their stationary distribution, the same for everyone; they normalise mean rates."""
    return np.random.default_rng(0).standard_normal((4096, num_latents))


def _spread(linear: bool) -> float:
    """Returns the standard deviation over units of the logarithm of their mean rate."""
    return 0.25 if linear else 0.6


def _centre(mean_rate_hz: float, linear: bool) -> float:
    """Returns the mean over units of the logarithm of their mean rate."""
    return float(np.log(mean_rate_hz * (LINEAR_RATE if linear else 1.0)) - _spread(linear) ** 2 / 2)


def _quarter(weights: Array) -> Array:
    """Returns weights to movement turned by a quarter, shape (N, 4)."""
    turned: Array = weights[:, [1, 0, 3, 2]] * np.array([1.0, -1.0, 1.0, -1.0])

    return turned


@dataclass(frozen=True, kw_only=True)
class Tuning:
    r"""How N units' rates follow from the latents.

    In the nonlinear population the slow modulation m, latent 4, turns each unit's preferred direction and scales its
    tuning to movement, each unit by another amount, as posture does in motor cortex; and log rates saturate at c either
    side of the baseline:

    .. math:: \log \lambda = \mathrm{base} + c \tanh(d / c), \qquad
              d = (1 + \mathrm{gain} \, m) \, W_{:4} R(\mathrm{turn} \, m) z_{:4} + W_{4:} z_{4:}
                  + \mathrm{speed} \, (\sqrt{1 + |v|^2} - 1)

    where R turns intended velocity and its partner by an angle.
    In the linear-Gaussian one :math:`\lambda = \mathrm{mean} \, (1 + W z)`, cut off at 0.

    Arguments:
        weights: W, shape (N, K).
        gain: Shape (N,).
        turn: In rad, shape (N,).
        speed: Shape (N,).
        log_rate: Logarithm of each unit's mean rate in Hz, shape (N,).
        silent: Whether a unit never fires, shape (N,).
        linear: Whether the population is the linear-Gaussian one.
    """

    weights: Array
    gain: Array
    turn: Array
    speed: Array
    log_rate: Array
    silent: NDArray[np.bool_]
    linear: bool

    @classmethod
    def draw(
        cls, num_units: int, num_latents: int, mean_rate_hz: float, linear: bool, rng: np.random.Generator
    ) -> "Tuning":
        """Draws new units."""
        N, K = num_units, num_latents
        depth = rng.gamma(4.0, 0.25, (N, 1))  # some units are tuned deeply, some hardly
        scale = np.r_[[DEPTHS[0]] * 2, [DEPTHS[1]] * 2, DEPTHS[2], np.full(K - 5, DEPTHS[3])]
        weights = rng.standard_normal((N, K)) * scale
        weights[:, :4] *= depth
        spread = _spread(linear)
        mean = _centre(mean_rate_hz, linear)
        if linear:
            weights *= LINEAR_DEPTH / np.linalg.norm(weights, axis=1, keepdims=True)

        return cls(
            weights=weights,
            gain=GAIN * rng.standard_normal(N),
            turn=TURN[0] + TURN[1] * rng.standard_normal(N),
            speed=SPEED * rng.standard_normal(N),
            log_rate=mean + spread * rng.standard_normal(N),
            silent=np.zeros(N, bool),
            linear=linear,
        )

    def select(self, rows: NDArray[np.generic]) -> "Tuning":
        """Returns the chosen units."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "linear"}
        return Tuning(**arrays, linear=self.linear)

    def mix(self, other: "Tuning", drift: float, mean_rate_hz: float) -> "Tuning":
        """Returns units that keep most of their tuning and take the share `drift` from `other`'s units.

        Both mean and variance over units stay as they are, however often this is done.
        """
        keep, centre = np.sqrt(1 - drift**2), _centre(mean_rate_hz, self.linear)

        return replace(
            self,
            weights=keep * self.weights + drift * other.weights,
            gain=keep * self.gain + drift * other.gain,
            turn=TURN[0] + keep * (self.turn - TURN[0]) + drift * (other.turn - TURN[0]),
            speed=keep * self.speed + drift * other.speed,
            log_rate=centre + keep * (self.log_rate - centre) + drift * (other.log_rate - centre),
        )

    @classmethod
    def join(cls, first: "Tuning", second: "Tuning") -> "Tuning":
        """Returns the units of both."""
        names = [f.name for f in fields(cls) if f.name != "linear"]
        arrays = {k: np.concatenate([getattr(first, k), getattr(second, k)]) for k in names}

        return cls(**arrays, linear=first.linear)

    def base(self) -> Array:
        """Returns the baseline that gives each unit its mean rate, shape (N,): a log rate in Hz."""
        relative: Array = np.exp(self.deviation(_stationary(self.weights.shape[1]))).mean(0)

        return self.log_rate - np.log(relative)

    def deviation(self, z: Array) -> Array:
        """Returns how far log rates lie from the baseline, shape (T, N)."""
        return SATURATION * np.tanh(self._drive(z) / SATURATION)

    def _movement(self, z: Array) -> tuple[Array, Array, Array]:
        """Returns the turned tuning to movement, its derivative by the angle, and the angle, each (T, N)."""
        angle = self.turn * z[:, 4:5]
        cos, sin = np.cos(angle), np.sin(angle)
        along = z[:, :4] @ self.weights[:, :4].T
        across = z[:, :4] @ _quarter(self.weights).T

        return along * cos + across * sin, across * cos - along * sin, angle

    def _drive(self, z: Array) -> Array:
        speed = np.sqrt(1 + np.sum(z[:, :2] ** 2, 1, keepdims=True)) - 1
        drive: Array = (1 + self.gain * z[:, 4:5]) * self._movement(z)[0]

        return drive + z[:, 4:] @ self.weights[:, 4:].T + self.speed * speed

    def rates_hz(self, z: Array) -> Array:
        """Returns firing rates, shape (T, N)."""
        if self.linear:
            rates = np.exp(self.log_rate) * np.maximum(1 + z @ self.weights.T, 0.0)
        else:
            rates = np.exp(self.base() + self.deviation(z))

        return np.where(self.silent, 0.0, rates)

    def slope(self, z: Array) -> tuple[Array, Array]:
        """Returns at one latent state (K,) the deviation (N,) of log rates and its derivative by the latents (N, K)."""
        movement, turning, angle = (x[0] for x in self._movement(z[None]))
        drive, scale = self._drive(z[None])[0], 1 + self.gain * z[4]
        slope = self.weights.copy()
        turned = self.weights[:, :4] * np.cos(angle)[:, None] + _quarter(self.weights) * np.sin(angle)[:, None]
        slope[:, :4] = scale[:, None] * turned
        slope[:, 4] += self.gain * movement + scale * turning * self.turn
        slope[:, :2] += np.outer(self.speed, z[:2] / np.sqrt(1 + z[0] ** 2 + z[1] ** 2))
        bent = np.tanh(drive / SATURATION)

        return SATURATION * bent, (1 - bent**2)[:, None] * slope


def spike_times(rates_hz: Array, dispersion: float, rng: np.random.Generator) -> list[Array]:
    """Returns each unit's spike times in ascending order, given rates in steps of `STEP`, shape (num_steps, N).

    With dispersion d above 0, a factor of mean 1 and variance d multiplies each unit's rate in each bin of `BIN_SIZE`,
    so that counts in bins are negative binomial with variance ``mean + d * mean**2``.
    """
    num_steps, N = rates_hz.shape
    expected = rates_hz * STEP
    if dispersion > 0:
        per_bin = round(BIN_SIZE / STEP)
        factor = rng.gamma(1 / dispersion, dispersion, (-(-num_steps // per_bin), N))
        expected = expected * np.repeat(factor, per_bin, axis=0)[:num_steps]
    counts = rng.poisson(expected)
    times = []
    for n in range(N):
        step = np.repeat(np.arange(num_steps), counts[:, n])
        times.append(np.sort((step + rng.random(len(step))) * STEP))

    return times
