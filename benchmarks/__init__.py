"""Benchmarks: ratios against named baselines, measured in one run on servers of their own. Nobody imports them."""
