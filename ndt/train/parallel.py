"""A model spread over processes, and its transformer blocks made cheaper: sharding and recomputation."""

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
    """Lets each block keep its input only; its activations are computed again, with the same dropout, on the way back.

    Names of parameters stay as they are, which a wrapping module would change.
    """
    for block in _blocks(model):
        block.forward = partial(_recomputed, block.forward)  # type: ignore[method-assign]


def release_blocks(model: nn.Module) -> None:
    """Undoes `recompute_blocks`, which is for training."""
    for block in _blocks(model):
        block.__dict__.pop("forward", None)


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)

    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def shard(model: nn.Module) -> None:
    """Leaves each process its share of each parameter, by FSDP2: block by block, and the rest as one."""
    from torch.distributed.fsdp import fully_shard

    for block in _blocks(model):
        fully_shard(block)
    fully_shard(model)


def exchanging(wrapped: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Within it, gradients are summed over processes after the last micro-batch, and only gathered up before."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(last)
        wrapped.set_is_last_backward(last)
    elif isinstance(wrapped, DistributedDataParallel) and not last:
        return wrapped.no_sync()

    return nullcontext()


def local(tensor: Tensor) -> Tensor:
    """Returns this process's share of a tensor, not a copy."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors with the shares of all processes; all must call it."""
    with torch.no_grad():
        return {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in state.items()}
