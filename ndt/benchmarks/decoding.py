"""``ndt bench demo``: decoding of a new simulated day beside its peers."""

from typing import Any

from ndt.benchmarks.timing import row, run_folder
from ndt.config import BenchConfig

__all__ = ["demo"]


def demo(config: BenchConfig) -> list[dict[str, Any]]:
    """Decodes a new simulated day from a minute of labels."""
    from ndt.demo import demo

    with run_folder(config.out) as out:
        runs = [demo(out=out / f"seed{s}", seed=s, progress=False) for s in range(config.seeds)]
    sessions = [next(iter(r["sessions"].values())) for r in runs]
    scores = {peer: [s["baselines"][peer]["r2"] for s in sessions] for peer in sessions[0]["baselines"]}
    network, ensemble = ([s[part]["r2"] for s in sessions] for part in ("network", "test"))
    rows = [row("demo.network", network, "R2", peer, theirs) for peer, theirs in scores.items()]

    return [*rows, row("demo.ensemble", ensemble, "R2", "ridge", scores["ridge"])]
