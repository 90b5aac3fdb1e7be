"""The error tree. Every error takes one message and nothing else, so that it survives a trip between processes."""


class PerceptionError(Exception):
    """Base of every error this package raises on purpose; its text is meant for the user."""


class UsageError(PerceptionError):
    """The command, option or argument is wrong; nothing was started."""


class ConfigError(PerceptionError):
    """A configuration names an unknown field or a value outside its range."""


class DriveError(PerceptionError):
    """A drive cannot be read at all: missing tables, broken calibration, no messages."""


class PayloadError(PerceptionError):
    """One message cannot be read (truncated image, malformed point cloud); the drive goes on without it."""


class ModelError(PerceptionError):
    """A checkpoint or model configuration does not fit."""


class DecisionError(PerceptionError):
    """A recorded run cannot be decided again: its decisions are missing, or of another drive, model or
    configuration."""


class QueueError(PerceptionError):
    """A result queue cannot be reached, refused us, or carries something that is not a result."""


class EngineError(PerceptionError):
    """An engine failed or died while encoding or fusing."""
