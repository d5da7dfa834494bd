"""Checkpoints of a run, written atomically and restored bit for bit.

Tensors are stored as safetensors, which cannot run code. Sharded models are the exception: each process writes its
shard through torch.distributed.checkpoint, whose index is a pickle. Only a sharded run reads such checkpoints.
"""

import json
import math
import os
import shutil
import warnings
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ndt.errors import InputError
from ndt.model.checkpoint import load_tensors, save_weights, write_json
from ndt.parsing import read_json
from ndt.schema import Count, Within

__all__ = ["Checkpoints", "drop_later", "part"]

KEPT = 2  # checkpoints
WHOLE = "state.safetensors"


class _State(TypedDict):
    identity: str
    step: Count
    tokens: NotRequired[Count]
    waited: NotRequired[Count]
    seconds: NotRequired[Annotated[float, Within(0)]]
    best_score: NotRequired[float | None]
    averages: NotRequired[dict[str, tuple[Count, Annotated[float, Within(0)]]]]


class Checkpoints:
    """The last two checkpoints of a run.

    Arguments:
        run: Run directory.
        accelerator: The processes.
        sharding: ``none`` or ``fsdp``; a single process does not shard.
    """

    def __init__(self, run: Path, accelerator: Accelerator, sharding: str) -> None:
        self.run, self.folder, self.accelerator, self.sharding = run, run / "checkpoints", accelerator, sharding
        self.sharded = sharding == "fsdp" and accelerator.num_processes > 1

    def last(self) -> Path | None:
        """Returns the newest checkpoint, or None."""
        return max(self.folder.glob("step_*"), default=None)

    def write(self, step: int, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Writes a checkpoint to a temporary folder and renames it; all processes must call it."""
        main = self.accelerator.is_main_process
        folder = self.folder / f"step_{step:08d}"
        temporary = folder.with_name(f".{folder.name}")
        if main:
            for stale in self.folder.glob(".step_*"):  # of a run that was killed while writing
                shutil.rmtree(stale)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        if self.sharded:
            from torch.distributed.checkpoint.state_dict_saver import save

            save(tensors, checkpoint_id=temporary)
        if not main:
            return
        if not self.sharded:
            save_weights(tensors, temporary / WHOLE)
        write_json(temporary / "state.json", counters)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)
        for old in sorted(self.folder.glob("step_*"))[:-KEPT]:
            shutil.rmtree(old)

    def read(self, identity: str, like: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the tensors and counters of the newest checkpoint.

        Arguments:
            identity: Identity that the checkpoint must have.
            like: Tensors with the names, shapes and shards of the run; the checkpoint may lack optimiser state.

        Raises:
            InputError: if there is no checkpoint, or it belongs to another run.
        """
        folder = self.last()
        if folder is None:
            raise InputError(self.run, "checkpoints", "a checkpoint to resume from", "none")
        counters = read_json(folder / "state.json", _State)
        if folder.name != f"step_{counters['step']:08d}":
            raise InputError(folder / "state.json", "step", f"that of {folder.name}", counters["step"])
        if counters.pop("identity") != identity:
            raise InputError(folder, "architecture, data and seed", "the checkpoint's own", "others; start a new run")
        if (folder / WHOLE).exists():
            tensors = _read_whole(like, folder)
        elif self.sharding == "fsdp":
            tensors = _read_shards(like, folder)
        else:
            raise InputError(folder, "train.sharding", "fsdp, as the checkpoint", self.sharding)
        for name, tensor in tensors.items():  # the checkpoint may hold or lack optimiser state
            if name in like and (tensor.shape, tensor.dtype) != (like[name].shape, like[name].dtype):
                expected = f"{like[name].dtype} of shape {tuple(like[name].shape)}"
                raise InputError(folder / WHOLE, name, expected, f"{tensor.dtype} of shape {tuple(tensor.shape)}")
        shapes = ({k: v.shape for k, v in part(some, "model/").items()} for some in (tensors, like))
        if next(shapes) != next(shapes):
            raise InputError(folder, "architecture", "the checkpoint's own", "another; start a new run")

        return tensors, counters


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with a prefix, by their names without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def drop_later(log: Path, step: int) -> None:
    """Drops the lines of a log after a step, and an incomplete line."""
    lines = log.read_text().splitlines() if log.exists() else []
    log.write_text("".join(line + "\n" for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf


def _read_whole(like: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    found = load_tensors(folder / WHOLE)
    for name, own in like.items():
        if isinstance(own, DTensor) and name in found:
            found[name] = distribute_tensor(found[name].to(own.device), own.device_mesh, own.placements)

    return found


def _read_shards(like: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    stored = FileSystemReader(folder).read_metadata().state_dict_metadata
    found = {k: v.detach().clone() for k, v in like.items() if k in stored}
    with warnings.catch_warnings():  # torch warns that only one process reads
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        load(found, checkpoint_id=folder)

    return found
