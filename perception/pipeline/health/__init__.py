"""What is wrong with the sensors of a rig, from their messages alone."""

from perception.pipeline.health.monitor import SensorHealth

__all__ = ["SensorHealth"]
