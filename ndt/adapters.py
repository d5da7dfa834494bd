r"""Low-rank adapters: a layer's weights stay as they are, and the product of two thin matrices is added to them.

.. math:: W + B A, \qquad B: (\mathrm{out}, r), \; A: (r, \mathrm{in})

B starts at zero, so that a model with new adapters is the model without. They are the library peft's, and are added to
the weights when training ends: what is saved is a model like any other.

Reference: Hu et al. (2022), LoRA, https://arxiv.org/abs/2106.09685.
"""

from collections.abc import Iterator
from importlib.util import find_spec

from torch import nn

from ndt.errors import InputError
from ndt.model import NDT

__all__ = ["ADAPTER", "add_adapters", "merge_adapters"]

STACKS = ("encoder.", "rate_decoder.", "covariate.")
ADAPTER = ".lora_"  # in the names of adapters' parameters, and of no others


def add_adapters(model: NDT, rank: int, skip: tuple[str, ...] = ()) -> None:
    """Puts adapters around the linear layers of encoder, masked decoder and covariate decoder, in place.

    Only adapters then require gradients.

    Arguments:
        model: The model.
        rank: Rank r.
        skip: How the names of parts begin that get none.

    Raises:
        InputError: if peft is not installed.
    """
    if find_spec("peft") is None:
        raise InputError("finetune", "adapt", "the library peft for lora (pip install 'ndt[lora]')", "none installed")
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name in _linear_layers(model) if not name.startswith(skip)]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), model)


def merge_adapters(model: NDT) -> None:
    """Adds adapters into the weights of their layers and removes them, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    for name, module in wrapped.items():
        module.merge()
        model.set_submodule(name, module.get_base_layer())
    vars(model).pop("peft_config", None)


def _linear_layers(model: NDT) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith(STACKS):
            yield name
