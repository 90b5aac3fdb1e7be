"""Which worlds are reserved for evaluation (`configs/simulation/held_out.yaml`)."""

from perception.config.load import load_settings
from perception.config.paths import find_config
from perception.config.schema import Settings
from sim.settings import WorldSettings


class HeldOut(Settings):
    """Maps, and seeds on any map, that training must not see."""

    maps: tuple[str, ...]
    first_seed: int
    last_seed: int

    def holds(self, world: WorldSettings) -> bool:
        """Whether a world is reserved."""
        return world.map in self.maps or self.first_seed <= world.seed <= self.last_seed


def held_out() -> HeldOut:
    """The shipped list. Raises ConfigError where it is missing."""
    return load_settings(HeldOut, find_config("simulation", "held_out"))
