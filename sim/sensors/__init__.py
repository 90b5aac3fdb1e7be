"""Cameras, lidars, radars and the ego's own measurements, by ray casting into a `SceneView`."""
