"""Several processes, and less memory: gradient exchange, sharding, and recomputation of activations."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ndt.model.layers import Block

__all__ = ["exchanging", "local", "recompute_blocks", "release_blocks", "shard", "whole"]


def _blocks(model: nn.Module) -> Iterator[Block]:
    return (module for module in model.modules() if isinstance(module, Block))


def recompute_blocks(model: nn.Module) -> None:
    """Makes each block keep only its input and recompute its activations, with the same dropout, in the backward pass.

    A wrapping module would do the same, but change the names of parameters.
    """
    for block in _blocks(model):
        block.forward = partial(_recomputed, block.forward)  # type: ignore[method-assign]


def release_blocks(model: nn.Module) -> None:
    """Undoes `recompute_blocks`."""
    for block in _blocks(model):
        block.__dict__.pop("forward", None)


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)

    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def shard(model: nn.Module) -> None:
    """Shards each parameter over the processes by FSDP2: one group for each block, and one for the rest."""
    from torch.distributed.fsdp import fully_shard

    for block in _blocks(model):
        fully_shard(block)
    fully_shard(model)


def exchanging(wrapped: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Context of a micro-batch's backward pass: only after the last are gradients summed over processes."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(last)
        wrapped.set_is_last_backward(last)
    elif isinstance(wrapped, DistributedDataParallel) and not last:
        return wrapped.no_sync()

    return nullcontext()


def local(tensor: Tensor) -> Tensor:
    """Returns this process's shard of a tensor, without a copy."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors gathered from the shards of all processes; all processes must call it."""
    with torch.no_grad():
        return {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in state.items()}
