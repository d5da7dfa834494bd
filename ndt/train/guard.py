"""Detects a diverging loss."""

import math

__all__ = ["FACTOR", "DivergenceGuard"]

FACTOR = 20  # times its running average: a larger term of the loss diverges
BURN_IN = 10  # steps before a term is checked, while its average is unreliable
MEMORY = 100  # steps in the average


class DivergenceGuard:
    r"""Compares each term of the loss with the running average of its magnitude.

    .. math:: x > 20 \, m, \qquad m \leftarrow m + (|x| - m) / \min(n, 100)

    after n steps of the term. Magnitudes, because the likelihood of many spikes, without :math:`\log y!`, is negative.
    """

    def __init__(self) -> None:
        self.averages: dict[str, tuple[int, float]] = {}  # number of steps, and average, by term; serialisable as JSON

    def violations(self, terms: dict[str, float]) -> dict[str, str]:
        """Returns messages, by term, of terms that are not finite or diverge."""
        found = {}
        for name, value in terms.items():
            steps, average = self.averages.get(name, (0, 0.0))
            if not math.isfinite(value):
                found[name] = f"{name} {value}"
            elif steps >= BURN_IN and value > FACTOR * average:
                found[name] = f"{name} {value:.4g} after {average:.4g} on average"

        return found

    def update(self, terms: dict[str, float]) -> None:
        """Adds a step's terms to the averages."""
        for name, value in terms.items():
            steps, average = self.averages.get(name, (0, 0.0))
            self.averages[name] = (steps + 1, average + (abs(value) - average) / min(steps + 1, MEMORY))
