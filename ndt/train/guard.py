"""Tells a loss that explodes from one that is high."""

import math

__all__ = ["FACTOR", "DivergenceGuard"]

FACTOR = 20
YOUNG = 10  # steps before a term of the loss is judged: its average is not yet one
MEMORY = 100  # steps that the average is about


class DivergenceGuard:
    r"""Compares each term of the loss with the running average of its magnitude.

    .. math:: x > f \, m, \qquad m \leftarrow m + (|x| - m) / \min(n, 100)

    after n steps of the term. Magnitudes, since the likelihood of many spikes, without :math:`\log y!`, is negative.

    Arguments:
    """

    def __init__(self) -> None:
        self.usual: dict[str, list[float]] = {}  # steps seen, and the average; JSON can hold it

    def wrong(self, terms: dict[str, float]) -> dict[str, str]:
        """Returns what is wrong with which term, in words."""
        found = {}
        for name, value in terms.items():
            steps, average = self.usual.get(name, [0, 0.0])
            if not math.isfinite(value):
                found[name] = f"{name} {value}"
            elif steps >= YOUNG and value > FACTOR * average:
                found[name] = f"{name} {value:.4g} after {average:.4g} on average"

        return found

    def take(self, terms: dict[str, float]) -> None:
        """Takes a step's terms into the averages."""
        for name, value in terms.items():
            steps, average = self.usual.get(name, [0, 0.0])
            steps += 1
            self.usual[name] = [steps, average + (abs(value) - average) / min(steps, MEMORY)]
