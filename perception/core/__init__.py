"""Types, ports, geometry and clocks. Imports numpy and the standard library only."""
