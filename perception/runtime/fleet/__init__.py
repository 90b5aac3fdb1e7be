"""Many recorded drives through the model on a Ray cluster: `perception fleet`."""
