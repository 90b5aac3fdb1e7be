"""Meshes of everything that moves or is labelled: grown from parameters, closed and wound outwards."""
