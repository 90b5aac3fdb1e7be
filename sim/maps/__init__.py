"""Road maps: the shipped networks, how they were made, and the reader that turns any SUMO network into geometry."""
