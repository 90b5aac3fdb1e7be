"""Grows everything that stands on a map, from one seed."""

from dataclasses import dataclass

import numpy as np

from sim.actors.pool import Pool
from sim.maps.net import RoadMap
from sim.maps.relief import Relief
from sim.scene import Mesh
from sim.scenery.buildings import add_buildings
from sim.scenery.furniture import add_furniture
from sim.scenery.markings import add_markings
from sim.scenery.patches import Patches
from sim.scenery.planting import add_trees
from sim.scenery.plots import plots_of
from sim.scenery.roads import add_ground, add_roads
from sim.scenery.standing import Standing, place_standing
from sim.settings import WorldSettings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenery:
    """The fixed world: one mesh in world metres, and the actors that stand still."""

    mesh: Mesh
    standing: tuple[Standing, ...]


def grow(net: RoadMap, relief: Relief, pool: Pool, settings: WorldSettings) -> Scenery:
    """Scenery of a map; equal settings give equal bytes. Each part draws from its own stream of the seed."""
    streams = [np.random.default_rng([settings.seed, 2, part]) for part in range(6)]
    patches, plots = Patches(relief=relief), plots_of(net)
    add_ground(patches, net, streams[0])
    add_roads(patches, net, streams[1])
    add_markings(patches, net)
    standing = place_standing(patches, net, plots, pool, settings, streams[2])
    if settings.scenery.buildings:
        add_buildings(patches, net, plots, streams[3])
    add_furniture(patches, net, plots, streams[4])
    add_trees(patches, net, plots, settings.scenery.trees_per_km, streams[5])
    return Scenery(mesh=patches.mesh(), standing=tuple(standing))
