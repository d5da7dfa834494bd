"""Recipes: YAML files with the settings of ingestion, the source and the licence of public data sets.

The part `ingest` holds settings of `ndt.config.data.IngestConfig`, which options can override. ``tried: false`` means
that the recipe was never run on the real files, and `reason` says why.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ndt.config.data import IngestConfig
from ndt.config.reader import fill_config
from ndt.errors import InputError
from ndt.parsing import read_yaml

__all__ = ["Recipe", "load_recipe", "recipe_names", "recipes_table"]

FOLDER = Path(__file__).parent / "recipes"
NEEDED = ("title", "source", "files", "licence", "cite", "tried", "covariate", "ingest")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A public data set and the settings to read it.

    Arguments:
        name: Name of the recipe: that of its file.
        title: One line on what was recorded.
        source: Address: ``dandi:000128@0.220113.0400``, or ``zenodo:`` and a record.
        files: Patterns of its files, relative to `source`.
        licence: Licence according to the archive, as an SPDX identifier.
        cite: Publications to cite.
        tried: Whether the recipe was run on the real files.
        reason: Why it was not.
        notes: Remarks, and what could not be verified.
        bin_size: Usual bin width in seconds.
        covariate: Default target; empty if no behaviour was measured continuously.
        ingest: Settings of ingestion.
    """

    name: str = ""
    title: str
    source: str
    files: tuple[str, ...]
    licence: str
    cite: tuple[str, ...]
    tried: bool
    reason: str = ""
    notes: tuple[str, ...] = ()
    bin_size: float = 0.02
    covariate: str
    ingest: IngestConfig = field(default_factory=IngestConfig)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Files for `ndt.data.ingest.ingest`; none if they have to be downloaded by hand."""
        return tuple(f"{self.source}/{pattern}" for pattern in self.files) if self.source.startswith("dandi:") else ()


def recipe_names() -> list[str]:
    """Returns the names of all recipes of the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Returns a recipe of the package by its name, or a recipe from a YAML file.

    Raises:
        InputError: if there is no recipe of that name, a key is missing, or a key or setting is unknown.

    Example:
        >>> load_recipe("mc_rtt").covariate
        'finger_vel'
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name_or_path}.yaml"
        if str(name_or_path) not in recipe_names():
            raise InputError(name_or_path, "recipe", f"a YAML file, or one of {', '.join(recipe_names())}", "neither")
    found: Any = read_yaml(path, "recipe")
    missing = [key for key in NEEDED if not isinstance(found, dict) or key not in found]
    if missing:
        raise InputError(path, "recipe", f"the keys {', '.join(NEEDED)}", f"no {missing[0]}")
    if "name" in found:
        raise InputError(path, "recipe.name", "no name: the file's name is that of the recipe", repr(found["name"]))
    recipe = fill_config(Recipe, {key: value for key, value in found.items() if key != "ingest"}, path, "recipe")
    if not recipe.tried and not recipe.reason:
        raise InputError(path, "recipe.reason", "why it was not tried", "none")

    return replace(recipe, name=path.stem, ingest=fill_config(IngestConfig, found["ingest"], path, "recipe.ingest"))


def recipes_table() -> list[dict[str, Any]]:
    """Returns a row for each recipe: name, title, source, licence, whether it was tried."""
    shown = ("name", "title", "source", "licence", "tried")

    return [{key: getattr(recipe, key) for key in shown} for recipe in map(load_recipe, recipe_names())]
