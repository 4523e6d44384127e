"""The compute path of a run: memory format, precision, fused optimiser and compiler, chosen by measuring."""
