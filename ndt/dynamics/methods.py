"""Models of dynamics by name, with the settings of a run."""

from collections.abc import Callable
from dataclasses import replace

from ndt.config.dynamics import DynamicsConfig
from ndt.dynamics.first_order import FlowMatching, GradientFlow
from ndt.dynamics.generative import GenerativeModel
from ndt.dynamics.hoam import HOAM
from ndt.dynamics.references import ConstantVelocity, LinearExtrapolation, Persistence
from ndt.dynamics.wlm import WLM

__all__ = ["METHODS", "Model", "make_model"]

Model = HOAM | WLM | GenerativeModel | FlowMatching | GradientFlow | Persistence
METHODS: dict[str, type[HOAM] | type[WLM]] = {"hoam": HOAM, "wlm": WLM}


def make_model(name: str, config: DynamicsConfig) -> Model:
    """Returns an unfitted model with the settings and the seed of a run.

    ``action_matching`` is action matching as first published: nodes in time by Monte Carlo and a free level.
    """
    seed = config.seed
    hoam = replace(config.hoam, seed=seed)
    models: dict[str, Callable[[], Model]] = {
        "hoam": lambda: HOAM(hoam),
        "wlm": lambda: WLM(config.wlm),
        "action_matching": lambda: HOAM(replace(hoam, rule="monte_carlo", gauge="none", form="action")),
        "conditional_flow_matching": lambda: GenerativeModel("flow_matching", config.generative, seed),
        "conditional_diffusion": lambda: GenerativeModel("diffusion", config.generative, seed),
        "flow_matching": lambda: FlowMatching(config.flow_steps, seed),
        "gradient_flow": lambda: GradientFlow(seed),
        "persistence": Persistence,
        "constant_velocity": ConstantVelocity,
        "linear_extrapolation": LinearExtrapolation,
    }

    return models[name]()
