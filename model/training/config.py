"""How to train, and what "auto" means on this machine."""

from dataclasses import dataclass

import torch

from model.training.device import has_bf16
from model.training.losses import LOSSES


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Defaults are for some hundreds to thousands of films at 64 px on two CPU cores."""

    kimg: float = 8.0  # length: thousands of real images shown
    max_seconds: float | None = None  # stop earlier after this time; such a run cannot be repeated exactly
    batch: int = 4  # twice the updates of 8, at 1.1 times the cost of an image
    learning_rate: float = 0.003  # of both networks; Adam
    betas: tuple[float, float] = (0.0, 0.99)
    loss: str = "relativistic_average_hinge"  # a key of model.training.losses.LOSSES
    gamma: float = 10.0  # weight of the gradient penalty: gamma / 4 each for R1 and R2, all (there lambda) for WGAN-GP
    penalty_interval: int = 16  # steps from one penalty to the next ("lazy", arXiv 1912.04958)
    penalty_on: str = "both"  # "both": at real and fake images, R1 and R2, or between them; "real": R1, of gamma / 2
    augment_probability: float = 0.0  # of each operation on each image; short trainings lose variety by it
    augment_target: float = 0.0  # above 0 the probability, from there on, is adapted: see AdaptiveProbability
    augment_mirror: bool = False  # mirror images among its operations
    augment_kimg: float | None = None  # in which it can go from 0 to 1; None: a tenth of the length (ADA: 500)
    mismatch: float = (
        0.5  # weight of real images with a wrong label among D's fakes (arXiv 1605.05396); 0 leaves it out
    )
    auxiliary: float = 0.5  # weight of an auxiliary classifier's cross-entropy in G's loss; 0 leaves it out
    warmup_kimg: float = 0.0  # so long the networks are not told the class, which is then learnt from zero
    ema_kimg: float = 5.0  # half-life of the averaged generator
    ema_rampup: float = 0.05  # the half-life is at most this part of the images seen so far
    precision: str = "auto"  # of all but the penalty: "bf16", "fp32", or "auto": bf16 where the device has it
    tick_kimg: float = 1.0
    device: str = "auto"  # "auto": cuda where there is one
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("kimg", "batch", "learning_rate", "penalty_interval", "tick_kimg"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        choices = {"loss": tuple(LOSSES), "precision": ("auto", "bf16", "fp32"), "penalty_on": ("real", "both")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name in ("augment_probability", "augment_target"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if self.augment_kimg is not None and not self.augment_kimg > 0:
            raise ValueError(f"augment_kimg must be above 0, not {self.augment_kimg}")
        for name in ("gamma", "mismatch", "auxiliary", "warmup_kimg"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be below 0, but is {getattr(self, name)}")

    def torch_device(self) -> torch.device:
        """Where to train: cuda where there is one, unless `device` says otherwise."""
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def bf16(self) -> bool:
        """Whether all but the penalty is computed in bf16."""
        return self.precision == "bf16" or (self.precision == "auto" and has_bf16(self.torch_device()))
