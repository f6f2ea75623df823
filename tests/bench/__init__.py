"""Benchmarks: each figure is a ratio against the bare tool in the same run; `make bench` writes docs/benchmarks.md."""
