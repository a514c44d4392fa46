"""Benchmarks: each prints a table of medians of interleaved rounds: drift hits all alike."""
