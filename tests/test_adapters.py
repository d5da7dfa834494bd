"""Low-rank adapters: nothing at first, of bounded rank, and gone when they are merged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from problems import TINY, busy_model, random_window, recording, specification

from ndt.adapters import ADAPTER, add_adapters, merge_adapters
from ndt.errors import InputError
from ndt.layers import Attention
from ndt.model import NDT
from ndt.tokens import pack

KINDS = [
    TINY,
    replace(TINY, covariates="convolved", conv_width=8, num_conv_layers=2),
]


def adapted(config=TINY, rank: int = 2, skip: tuple[str, ...] = ()) -> tuple[NDT, dict[str, torch.Tensor]]:
    """A model with adapters whose every number is drawn at random, and its weights before."""
    pytest.importorskip("peft")
    model = busy_model(specification([recording(num_units=5)], config=config))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    add_adapters(model, rank, skip)
    return model.eval(), before


def shake(model: NDT) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ADAPTER in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def batch():
    rng = np.random.default_rng(0)
    return pack([random_window(7, 5, rng), random_window(4, 5, rng)], 3)


def outputs(model: NDT) -> list[torch.Tensor]:
    with torch.no_grad():
        found = model(batch())
    return [found.log_rates, found.decoded]


@pytest.mark.parametrize("config", KINDS)
def test_new_adapters_change_nothing_and_alone_require_gradients(config) -> None:
    model, _ = adapted(config)
    plain = busy_model(specification([recording(num_units=5)], config=config))
    for own, other in zip(outputs(model), outputs(plain), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if ADAPTER in n
    }


@pytest.mark.parametrize("config", KINDS)
def test_merged_weights_say_what_adapters_said(config) -> None:
    model, before = adapted(config)
    shake(model)
    plain = busy_model(specification([recording(num_units=5)], config=config))
    said = outputs(model)
    assert any((own - other).abs().max() > 0.1 for own, other in zip(said, outputs(plain), strict=True))
    merge_adapters(model)
    for own, other in zip(outputs(model), said, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    assert model.state_dict().keys() == before.keys()
    assert not hasattr(model, "peft_config")


def test_merged_weights_are_the_old_ones_and_a_product_of_the_rank() -> None:
    model, before = adapted(rank=2, skip=("covariate.",))
    shake(model)
    factors = {n: p.detach().double() for n, p in model.named_parameters() if ADAPTER in n}
    assert not any(name.startswith("covariate.") for name in factors)
    merge_adapters(model)
    changed = set()
    for name, value in model.state_dict().items():
        first = name.replace(".weight", ".lora_A.default.weight")
        if first not in factors:
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)
            continue
        product = factors[first.replace("lora_A", "lora_B")] @ factors[first]
        torch.testing.assert_close(value.double(), before[name].double() + product, rtol=1e-5, atol=1e-6)
        assert torch.linalg.matrix_rank((value - before[name]).double(), atol=1e-4) == 2
        changed.add(name.rpartition(".")[0])
    stacks = {"encoder": TINY.num_layers, "rate_decoder": TINY.num_decoder_layers}
    parts = ("attention.query", "attention.key_value", "attention.out", "feedforward.inner", "feedforward.outer")
    assert changed == {f"{stack}.{i}.{part}" for stack, n in stacks.items() for i in range(n) for part in parts}


def test_a_merged_model_is_saved_and_loaded_like_any_other(tmp_path) -> None:
    model, _ = adapted()
    shake(model)
    merge_adapters(model)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(NDT.from_pretrained(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)


def test_layers_without_adapters_take_one_product_as_before() -> None:
    layer, x = Attention(TINY), torch.randn(6, TINY.width)
    weight, bias = (
        torch.cat([getattr(part, k) for part in (layer.query, layer.key_value)]) for k in ("weight", "bias")
    )
    torch.testing.assert_close(layer._project(x), F.linear(x, weight, bias), rtol=0, atol=0)


def test_without_peft_it_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setattr("ndt.adapters.find_spec", lambda _: None)
    model = busy_model(specification([recording(num_units=5)]))
    with pytest.raises(InputError, match=r"adapt: expected the library peft for lora \(pip install 'ndt\[lora\]'\)"):
        add_adapters(model, 2)
