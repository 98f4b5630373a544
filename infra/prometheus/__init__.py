"""Prometheus: what it scrapes, what it records, when it calls somebody.

Enters: the addresses of workers and scorers. Leaves: configuration; `prometheus.yml` is for docker compose, `config.py`
writes one for the embedded stack, `rules.yml` serves both. Read by Prometheus.
"""
