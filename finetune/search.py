"""Search for settings of a decoder: small, by validation alone, resumable and parallel."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ndt.config import FinetuneConfig
from ndt.data.store import Store
from ndt.errors import InputError
from ndt.finetune.space import SPACE, draw, load_space, read_space
from ndt.finetune.study import Study
from ndt.model import NDT
from ndt.search_record import Candidate, SearchRecord
from ndt.studies import departed, run_all

__all__ = ["search"]


def search(
    base: NDT | str | Path | None,
    session: str,
    covariate: str | None = None,
    *,
    out: str | Path,
    store: str | Path | Store | None = None,
    config: FinetuneConfig | None = None,
    space: Mapping[str, Any] | str | Path | None = None,
    trials: int = 16,
    seeds: int = 3,
    halving: bool = True,
    workers: int = 1,
    progress: bool = True,
) -> SearchRecord:
    """Fits candidates, chooses one by its validation score, and only then scores that one on the test block.

    A candidate is a function of the space, the seed and its number, so that more trials go on where fewer ended, and
    workers change nothing; number 0 is `config` itself. Its score is the network's R² on the validation block, the
    mean over its seeds; no run of a candidate decodes the test block.

    Halving is over seeds: all candidates are fitted with the first seed, the better half of them, and number 0, with
    the next, and so on. Each of these runs is whole. Halving over steps is not done: the schedule is laid over a run's
    steps, so that a short run is no beginning of a long one, and would favour settings that are quick to begin with.

    Of those with all seeds the best mean wins, the lower number where two are the same. It is fitted once more with
    the first seed into `out` itself, an ordinary run directory, with ``search.json`` beside it. Runs of candidates lie
    in ``<out>/search/``: what has ended there is not done again. A candidate whose run fails, as by a loss that
    explodes, is out; number 0 may not fail.

    Arguments:
        base: A pretrained model, or its run directory or Hub name; None trains from scratch.
        session: Session id, in the store.
        covariate: Name of the covariate; by default a velocity or heading.
        out: Run directory.
        store: The store; by default the one that `base` was pretrained on.
        config: Settings that candidates depart from; seeds count from its own.
        space: Ranges and lists of values by dotted setting, or a YAML file of them; see `ndt.finetune.space`.
        trials: Number of candidates, `config` included.
        seeds: Number of seeds.
        halving: Whether to drop the worse half after each seed.
        workers: Runs at a time, each in a process with one thread.
        progress: Whether to show a progress bar.

    Raises:
        InputError: if the space has something wrong, or the decoder cannot be fitted with `config`.
    """
    for name, value in (("trials", trials), ("seeds", seeds), ("workers", workers)):
        if value < 1:
            raise InputError("search", name, "at least 1", value)
    config, out = config or FinetuneConfig(), Path(out)
    where, stated = (space, load_space(space)) if isinstance(space, str | Path) else ("search", space or SPACE)
    axes, left_out = read_space(stated, config, pretrained=base is not None, where=where)
    study = Study.opened(base, session, covariate, store, out)
    settings = [draw(axes, config, config.seed, n) for n in range(trials)]
    candidates = [Candidate(number=n, settings=s, valid=[], seconds=0.0) for n, s in enumerate(settings)]
    numbers = [config.seed + s for s in range(seeds)]
    validate = partial(_validate, study, out / "search", config)
    candidates = _race(validate, candidates, numbers, halving, partial(run_all, workers=workers, progress=progress))

    winner = max((c for c in candidates if len(c.valid) == seeds and not c.failed), key=_rank)
    chosen = departed(config, winner.settings, "search", f"candidate {winner.number}")
    metrics = study.fit(out, chosen, shared=True, progress=progress)
    scored = {"network": metrics["network"], "delivered": metrics["test"], "ridge": metrics["baselines"]["ridge"]}
    record = SearchRecord(
        session=session,
        covariate=str(metrics["covariate"]),
        space={name: stated[name] for name in axes},
        seeds=numbers,
        halving=halving,
        candidates=candidates,
        winner=winner.number,
        valid=float(metrics["valid"]["network"]),
        test={name: math.nan if part["r2"] is None else float(part["r2"]) for name, part in scored.items()},
        left_out=left_out,
    )
    record.save(out)

    return record


def _race(
    validate: Callable[[Candidate, int], dict[str, Any]],
    candidates: list[Candidate],
    seeds: Sequence[int],
    halving: bool,
    run: Callable[..., list[dict[str, Any]]],
) -> list[Candidate]:
    """Returns the candidates with the scores of the seeds that each was given, by number."""
    known, alive = {c.number: c for c in candidates}, candidates
    for i, seed in enumerate(seeds, 1):
        found = run([partial(validate, c, seed) for c in alive], title=f"search, seed {i} of {len(seeds)}")
        done = [c.with_run(**f) for c, f in zip(alive, found, strict=True)]
        known |= {c.number: c for c in done}
        alive = [c for c in done if not c.failed]
        if halving:
            alive = _best(alive, math.ceil(len(candidates) / 2**i))

    return list(known.values())


def _validate(study: Study, home: Path, config: FinetuneConfig, candidate: Candidate, seed: int) -> dict[str, Any]:
    """Returns validation R² and seconds of one run, or why there is none."""
    folder, name = home / f"{candidate.number:03d}" / f"seed{seed}", f"candidate {candidate.number}"
    try:
        chosen = replace(departed(config, candidate.settings, "search", name), seed=seed)
        metrics = study.fit(folder, chosen, test=False)
        valid = metrics["valid"]["network"]
        if valid is None:
            raise InputError(study.session, "validation block", "labels that vary", "a score that is no number")
    except InputError as error:
        if candidate.number == 0:  # what fails as it was given is wrong input, and no bad candidate
            raise
        return {"failed": f"{error.field}: expected {error.expected}, found {error.found}"}  # no path: pages travel

    return {"valid": float(valid), "seconds": float(metrics["train_seconds"])}


def _rank(candidate: Candidate) -> tuple[float, int]:
    return candidate.mean, -candidate.number


def _best(candidates: Sequence[Candidate], number: int) -> list[Candidate]:
    """Returns the best of candidates with equally many seeds, and number 0 if it is not among them, in their order."""
    kept = sorted(candidates, key=_rank, reverse=True)[:number]

    return [c for c in candidates if c in kept or c.number == 0]
