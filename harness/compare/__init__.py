"""Comparing device paths: workloads, alternating runs, samples, statistics, and the report."""
