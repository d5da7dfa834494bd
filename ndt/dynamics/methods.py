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
    hoam, seed = config.hoam, config.seed
    models: dict[str, Callable[[], Model]] = {
        "hoam": lambda: HOAM(hoam, seed),
        "wlm": lambda: WLM(config.wlm, seed),
        "action_matching": lambda: HOAM(replace(hoam, rule="monte_carlo", gauge="none", form="action"), seed),
        "conditional_flow_matching": lambda: GenerativeModel("flow_matching", seed),
        "conditional_diffusion": lambda: GenerativeModel("diffusion", seed),
        "flow_matching": lambda: FlowMatching(seed),
        "gradient_flow": lambda: GradientFlow(seed),
        "persistence": Persistence,
        "constant_velocity": ConstantVelocity,
        "linear_extrapolation": LinearExtrapolation,
    }

    return models[name]()
