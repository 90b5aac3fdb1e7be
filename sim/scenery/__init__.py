"""Scenery grown from a map as one mesh: roads, houses, trees, furniture; and the actors that stand still in it."""
