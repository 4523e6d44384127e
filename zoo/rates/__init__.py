"""The learning-rate finder: a ramp of rates on a copy of a phase, and what its losses suggest."""
