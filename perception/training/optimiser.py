"""The optimiser, its one-cycle rate, and what happens to steps that are not finite."""

import math
from typing import Final

import torch
from torch import Tensor, nn

from perception.config.training import OptimiserConfig

FIRST_SHARE: Final = 1 / 25
LAST_SHARE: Final = 1e-4
"""Shares of the peak rate at the start and the end of the cycle."""

MOMENTUM: Final = 0.9


def learning_rate(step: int, steps: int, config: OptimiserConfig) -> float:
    """The rate of step `step` of 0..steps - 1: up along a cosine for `warmup` of the way, then down along one.

    One cycle without its momentum cycle (Smith and Topin, Super-Convergence, 2018).
    """
    rise = config.warmup * steps
    if step < rise:
        low, along = FIRST_SHARE, step / rise
    else:
        low, along = LAST_SHARE, 1 - (step - rise) / max(steps - rise, 1.0)
    share = low + (1 - low) * (1 - math.cos(math.pi * min(max(along, 0.0), 1.0))) / 2
    return config.peak_rate * share


class Optimiser:
    """Clips and applies gradients. Every parameter has one from the start (zeros), whatever a step happened to use."""

    def __init__(self, network: nn.Module, config: OptimiserConfig, steps: int) -> None:
        self._config, self._steps = config, steps
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        decayed, free = split_by_decay(network)
        groups: list[dict[str, object]] = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
        self.inner = _build(groups, config)
        if config.name == "sgd":  # or a first step that is not finite would leave them as they were allocated
            for parameter in self._parameters:
                self.inner.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @property
    def gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def zero(self) -> None:
        torch._foreach_zero_(self.gradients)

    def step(self, step: int, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the gradients of step `step`, whose loss () is given, unless one of them is not finite.

        Returns the norm () of all gradients before clipping, and is_finite () bool; neither is waited for.
        """
        norm = nn.utils.get_total_norm(self.gradients)
        is_finite = torch.isfinite(norm) & torch.isfinite(loss)
        nn.utils.clip_grads_with_norm_(self._parameters, self._config.clip_norm, norm)
        for group in self.inner.param_groups:
            group["lr"] = learning_rate(step, self._steps, self._config)
        self._apply(is_finite)
        return norm, is_finite

    def _apply(self, is_finite: Tensor) -> None:
        if isinstance(self.inner, torch.optim.RMSprop):  # the only one without a fused form: it waits for the device
            if bool(is_finite):
                self.inner.step()
            return
        # What torch's own GradScaler sets: the fused kernels then leave weights and moments as they are.
        self.inner.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
        self.inner.grad_scale = None  # type: ignore[attr-defined]
        self.inner.step()


def split_by_decay(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that decay (weights of convolutions and linear layers), and those that do not: norms, biases,
    embeddings and learned queries."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                is_weight = name == "weight" and isinstance(module, nn.Linear | nn.Conv2d)
                (decayed if is_weight else free).append(parameter)
    return decayed, free


class Statistics:
    """Running statistics of the batch norms: a forward pass changes them before it is known whether it was finite."""

    def __init__(self, network: nn.Module) -> None:
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        self._now = [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None]
        self._sizes = [len(buffer) for buffer in self._now]
        self._kept = torch.cat(self._now)

    def keep_if(self, is_finite: Tensor) -> None:
        """Keep the present values if is_finite () is True, else go back to those kept last."""
        self._kept = torch.where(is_finite, torch.cat(self._now), self._kept)
        torch._foreach_copy_(self._now, torch.split(self._kept, self._sizes))


def _build(groups: list[dict[str, object]], config: OptimiserConfig) -> torch.optim.Optimizer:
    rate, decay = config.peak_rate, config.weight_decay
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=True)
    if config.name == "adam":
        return torch.optim.Adam(groups, lr=rate, weight_decay=decay, fused=True)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=decay, fused=True)
    return torch.optim.RMSprop(groups, lr=rate, momentum=MOMENTUM, weight_decay=decay)
