"""The simulated population: latent dynamics that all recordings share, and the tuning of each unit."""

from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

__all__ = [
    "BIN_SIZE",
    "NUM_LATENTS",
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
NUM_LATENTS = 6  # dimensions K of the shared dynamics

# These constants were chosen by the R² of ridge and of the oracle alone, before any network was trained.
FREQUENCY = 4.5  # rad/s: intended velocity oscillates with its quadrature partner
DAMPING = 0.6  # damping ratio of that oscillation; intended velocity is correlated over some 0.4 s
SLOW_SECONDS = 6.0  # correlation time of the slow gain modulation
OTHER_SECONDS = 0.6  # correlation time of the latent that does not move the cursor

ROTATION_HZ = 1.6  # of the rotational population, within trials; motor cortex rotates at 1 to 3 Hz in reaches
ROTATION_SECONDS = 3.0  # decay time of the rotation
PREPARED = (1.6, 0.0, 0.0, 1.2)  # mean over trials of latents 0 to 3 at the start of a trial
PREPARED_SPREAD = 0.4  # standard deviation over trials

TOP_SPEED = 25.0  # cm/s, approached by fast intended velocities
SATURATION = 1.6  # largest deviation of a log rate from its unit's baseline
DEPTHS = (0.4, 0.4, 0.25, 0.25, 0.4, 0.45)  # of tuning to v (2), to a (2), to the slow modulation, to the other latent
GAIN = 0.3  # standard deviation over units
TURN = (0.6, 0.3)  # mean and standard deviation over units, in rad
SPEED = 0.3  # standard deviation over units
LOG_RATE_SPREAD = 0.6  # standard deviation over units of the logarithm of the mean rate

Array = NDArray[np.float64]


def transition(seconds: float) -> Array:
    r"""Returns F with :math:`z_{t + s} = F z_t + w`, shape (K, K); w has covariance :math:`I - F F^\top`.

    Latents 0 and 1 are intended velocity v, latents 2 and 3 its quadrature partner a:

    .. math:: dv = \omega a \, dt, \qquad da = -\omega v \, dt - 2 \zeta \omega a \, dt + \sqrt{4 \zeta \omega} \, dW

    Latent 4 is a slow modulation, and latent 5 moves the population without moving the cursor; both are
    Ornstein-Uhlenbeck processes. Every latent has mean 0 and variance 1, and at any one time they are independent.
    """
    drift = np.diag([0.0] * 4 + [-1 / SLOW_SECONDS, -1 / OTHER_SECONDS])
    for v, a in ((0, 2), (1, 3)):
        drift[v, a], drift[a, v], drift[a, a] = FREQUENCY, -FREQUENCY, -2 * DAMPING * FREQUENCY

    return np.asarray(expm(drift * seconds), np.float64)


def simulate_latents(num_steps: int, rng: np.random.Generator) -> Array:
    """Returns a stationary path of the latents in steps of `STEP`, shape (num_steps, K)."""
    F = transition(STEP)
    values, vectors = np.linalg.eigh(np.eye(NUM_LATENTS) - F @ F.T)  # singular but for rounding: v has no noise itself
    noise = rng.standard_normal((num_steps, NUM_LATENTS)) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    z = np.empty((num_steps, NUM_LATENTS))
    z[0] = rng.standard_normal(NUM_LATENTS)
    for t in range(1, num_steps):
        z[t] = F @ z[t - 1] + noise[t]

    return z


def rotating_latents(z: Array, trials: Array, rng: np.random.Generator) -> Array:
    """Returns the latents with latents 0 to 3 replaced by rotations within trials.

    Each trial starts from a random state near `PREPARED`; the planes (0, 2) and (1, 3) rotate at `ROTATION_HZ` and
    decay. Between trials these latents move linearly to the start of the next trial.

    Reference: Churchland et al. (2012), Neural population dynamics during reaching,
    https://doi.org/10.1038/nature11129

    Arguments:
        z: Latents, shape (T, K), in steps of `STEP`.
        trials: First and last step of each trial; trials do not overlap, shape (M, 2).
        rng: Generator that draws the initial states.
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


def velocity(z: Array) -> Array:
    """Returns cursor velocity in cm/s, shape (T, 2): intended velocity, saturating with speed."""
    v = z[:, :2]
    saturating: Array = TOP_SPEED * v / np.sqrt(4 + np.sum(v**2, 1, keepdims=True))

    return saturating


@cache
def _stationary() -> Array:
    """Draws latents from their stationary distribution; they normalise mean rates."""
    return np.random.default_rng(0).standard_normal((4096, NUM_LATENTS))


def _mean_log_rate(mean_rate_hz: float) -> float:
    """Returns the mean over units of the logarithm of their mean rate."""
    return float(np.log(mean_rate_hz) - LOG_RATE_SPREAD**2 / 2)


def _quarter(weights: Array) -> Array:
    """Returns the weights to movement rotated by a quarter turn, shape (N, 4)."""
    turned: Array = weights[:, [1, 0, 3, 2]] * np.array([1.0, -1.0, 1.0, -1.0])

    return turned


@dataclass(frozen=True, kw_only=True)
class Tuning:
    r"""Maps latents to the firing rates of N units.

    The slow modulation m (latent 4) turns each unit's preferred direction and scales its tuning to movement by an
    amount that differs between units, as posture does in motor cortex. Log rates saturate at c on either side of the
    baseline:

    .. math:: \log \lambda = \mathrm{base} + c \tanh(d / c), \qquad
              d = (1 + \mathrm{gain} \, m) \, W_{:4} R(\mathrm{turn} \, m) z_{:4} + W_{4:} z_{4:}
                  + \mathrm{speed} \, (\sqrt{1 + |v|^2} - 1)

    where R rotates intended velocity and its partner by an angle.

    Arguments:
        weights: W, shape (N, K).
        gain: Shape (N,).
        turn: In rad, shape (N,).
        speed: Shape (N,).
        log_rate: Logarithm of each unit's mean rate in Hz, shape (N,).
        silent: Whether a unit never fires, shape (N,).
    """

    weights: Array
    gain: Array
    turn: Array
    speed: Array
    log_rate: Array
    silent: NDArray[np.bool_]

    @classmethod
    def draw(cls, num_units: int, mean_rate_hz: float, rng: np.random.Generator) -> "Tuning":
        """Draws new units."""
        N = num_units
        depth = rng.gamma(4.0, 0.25, (N, 1))  # some units are tuned deeply, some hardly
        weights = rng.standard_normal((N, NUM_LATENTS)) * np.array(DEPTHS)
        weights[:, :4] *= depth

        return cls(
            weights=weights,
            gain=GAIN * rng.standard_normal(N),
            turn=TURN[0] + TURN[1] * rng.standard_normal(N),
            speed=SPEED * rng.standard_normal(N),
            log_rate=_mean_log_rate(mean_rate_hz) + LOG_RATE_SPREAD * rng.standard_normal(N),
            silent=np.zeros(N, bool),
        )

    def select(self, rows: NDArray[np.generic]) -> "Tuning":
        """Returns the chosen units."""
        return Tuning(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def mix(self, other: "Tuning", drift: float, mean_rate_hz: float) -> "Tuning":
        """Returns units whose tuning has moved towards that of `other` by the fraction `drift`.

        The mean and the variance over units do not change, however often units drift.
        """
        keep, centre = np.sqrt(1 - drift**2), _mean_log_rate(mean_rate_hz)

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
        names = [f.name for f in fields(cls)]

        return cls(**{k: np.concatenate([getattr(first, k), getattr(second, k)]) for k in names})

    def base(self) -> Array:
        """Returns the baseline that gives each unit its mean rate, shape (N,): a log rate in Hz."""
        relative: Array = np.exp(self.deviation(_stationary())).mean(0)

        return self.log_rate - np.log(relative)

    def deviation(self, z: Array) -> Array:
        """Returns the difference of log rates from the baseline, shape (T, N)."""
        return SATURATION * np.tanh(self._drive(z) / SATURATION)

    def _movement(self, z: Array) -> tuple[Array, Array, Array]:
        """Returns the rotated tuning to movement, its derivative with respect to the angle, and the angle, (T, N)."""
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
        return np.where(self.silent, 0.0, np.exp(self.base() + self.deviation(z)))

    def slope(self, z: Array) -> tuple[Array, Array]:
        """Returns the deviation (N,) of log rates at one latent state (K,), and its Jacobian (N, K)."""
        movement, turning, angle = (x[0] for x in self._movement(z[None]))
        drive, scale = self._drive(z[None])[0], 1 + self.gain * z[4]
        slope = self.weights.copy()
        turned = self.weights[:, :4] * np.cos(angle)[:, None] + _quarter(self.weights) * np.sin(angle)[:, None]
        slope[:, :4] = scale[:, None] * turned
        slope[:, 4] += self.gain * movement + scale * turning * self.turn
        slope[:, :2] += np.outer(self.speed, z[:2] / np.sqrt(1 + z[0] ** 2 + z[1] ** 2))
        bent = np.tanh(drive / SATURATION)

        return SATURATION * bent, (1 - bent**2)[:, None] * slope


def spike_times(rates_hz: Array, rng: np.random.Generator) -> list[Array]:
    """Draws each unit's Poisson spike times, ascending, given rates in steps of `STEP`, shape (num_steps, N)."""
    num_steps, N = rates_hz.shape
    counts = rng.poisson(rates_hz * STEP)
    times = []
    for n in range(N):
        step = np.repeat(np.arange(num_steps), counts[:, n])
        times.append(np.sort((step + rng.random(len(step))) * STEP))

    return times
