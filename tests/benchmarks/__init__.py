"""Benchmarks: each prints a table of medians, its rounds interleaved, so that drift hits all alike."""
