"""Pictures of what the service saw."""
