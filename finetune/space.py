"""Which settings a search tries: a range or a list of values for each, and candidates drawn from them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndt.config import FinetuneConfig
from ndt.errors import InputError
from ndt.studies import departed

__all__ = ["SPACE", "Range", "Space", "draw", "load_space", "read_space", "setting"]

SPACE: dict[str, Any] = {  # configs/finetune/search.yaml says why
    "train.learning_rate": {"low": 0.0005, "high": 0.01, "log": True},
    "train.steps": [200, 400, 800],
    "still_steps": [0, 50, 150],
    "trunk_rate": {"low": 0.02, "high": 1.0, "log": True},
    "unit_dropout": {"low": 0.0, "high": 0.6},
    "mask_ratio": {"low": 0.0, "high": 0.5},
    "masked_weight": [0.0, 0.25, 0.5, 1.0],
    "model.dropout": {"low": 0.0, "high": 0.3},
    "model.width": [64, 96, 128],
}
FIXED = ("seed", "calibration", "bin_size", "window", "leaks", "max_lag")  # with others, scores could not be compared
IDLE = ("still_steps", "trunk_rate", "warm_steps", "fresh_contexts")  # about what was pretrained: nothing from scratch


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Arguments:
        low: The least.
        high: The largest.
        log: Whether equal factors, and not equal steps, are equally likely.
        whole: Whether only whole numbers are meant.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, u: float) -> float | int:
        """Returns the value below which a share `u`, in [0, 1), of the range lies; with three digits if not whole."""
        low, high = (self.low, self.high + 1) if self.whole else (self.low, self.high)  # each whole number has its room
        x = low * (high / low) ** u if self.log else low + u * (high - low)
        value = math.floor(x) if self.whole else float(f"{x:.3g}")

        return min(max(value, int(self.low) if self.whole else self.low), int(self.high) if self.whole else self.high)


Space = dict[str, Range | tuple[Any, ...]]


def load_space(path: str | Path) -> Any:
    """Returns what a YAML file of a space says.

    Example of a file:
        train.learning_rate: {low: 0.0005, high: 0.01, log: true}
        train.steps: [200, 400, 800]
    """
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(path, "space", "a YAML file", error) from error


def read_space(
    found: Any, config: FinetuneConfig, *, pretrained: bool, where: str | Path = "search"
) -> tuple[Space, list[str]]:
    """Returns a space, and sentences about what of it is left out because it would do nothing.

    Arguments:
        found: Ranges and lists by dotted setting, as YAML gives them.
        config: Settings that candidates depart from.
        pretrained: Whether there is a base model: it brings its own architecture. From scratch, nothing is pretrained.
        where: What an error names as its place.

    Raises:
        InputError: if a setting is unknown, not one of a search, or its values are of another type or out of range.
    """
    if not isinstance(found, Mapping) or not found:
        raise InputError(where, "space", "settings and their ranges or values", repr(found))
    space = {str(name): _axis(str(name), stated, config, where) for name, stated in found.items()}
    idle = [name for name in space if (name.startswith("model.") if pretrained else name in IDLE)]
    space = {name: axis for name, axis in space.items() if name not in idle}
    why = "a pretrained model brings its own architecture" if pretrained else "nothing is pretrained"
    if not space:
        raise InputError(where, "space", "settings that do something", f"{', '.join(idle)}: {why}")

    return space, [f"Not searched: {', '.join(idle)}; {why}."] if idle else []


def _axis(name: str, stated: Any, config: FinetuneConfig, where: str | Path) -> Range | tuple[Any, ...]:
    if name in FIXED:
        raise InputError(where, f"space.{name}", "a setting that candidates may differ in", "one of the whole search")
    if isinstance(stated, list) and stated:
        for value in stated:
            departed(config, {name: value}, where, "space")
        return tuple(stated)
    if not isinstance(stated, Mapping) or not {"low", "high"} <= set(stated) <= {"low", "high", "log"}:
        raise InputError(where, f"space.{name}", "a list of values, or low, high and perhaps log", repr(stated))
    low, high, log = stated["low"], stated["high"], stated.get("log", False)
    for value in (low, high):
        departed(config, {name: value}, where, "space")
    now = setting(config, name)
    if isinstance(now, bool | str) or not isinstance(log, bool):
        raise InputError(where, f"space.{name}", "a list of values, or numbers low and high", repr(stated))
    if not low < high or (log and low <= 0):
        raise InputError(where, f"space.{name}", f"low {'above 0 and ' if log else ''}below high", f"{low}, {high}")

    whole = isinstance(now, int)

    return Range(low=low if whole else float(low), high=high if whole else float(high), log=log, whole=whole)


def setting(config: FinetuneConfig, dotted: str) -> Any:
    """Returns the value of a setting by its dotted name."""
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, name)

    return value


def draw(space: Space, config: FinetuneConfig, seed: int, number: int) -> dict[str, Any]:
    """Returns a candidate's settings by dotted name: a function of the space, the seed and the number alone.

    Number 0 is the settings as they are. The others are the points of a Sobol sequence, moved by a shift that the seed
    gives and wrapped around: they fill the space more evenly than independent draws, however many there are. A setting
    that is added at a space's end leaves all others' values as they were.
    """
    if number == 0:
        return {name: setting(config, name) for name in space}
    from scipy.stats import qmc

    points = qmc.Sobol(len(space), scramble=False).random_base2(number.bit_length())
    u = (points[number] + np.random.default_rng(seed).random(len(space))) % 1

    return {
        name: axis.at(float(x)) if isinstance(axis, Range) else axis[int(x * len(axis))]
        for (name, axis), x in zip(space.items(), u, strict=True)
    }
