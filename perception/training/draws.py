"""Random numbers of augmentation, from the generator of a training step to the device of the batch."""

from torch import Generator, Tensor, device, rand, randn


def uniform(generator: Generator, where: device, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Numbers of `shape` in low..high. No copy, and no wait, where the generator lives on the device."""
    return rand(shape, generator=generator, device=generator.device).to(where) * (high - low) + low


def normal(generator: Generator, where: device, *shape: int) -> Tensor:
    """Numbers of `shape` from the standard normal distribution."""
    return randn(shape, generator=generator, device=generator.device).to(where)
