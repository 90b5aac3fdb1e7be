"""The simulator: traffic, scenery, sensors, faults and the closed loop. Plugs into the service as a source."""
