"""Scenery grown from a map: roads, markings, pavements, buildings, trees and furniture, as one mesh; and what stands still."""
