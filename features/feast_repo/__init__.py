"""Feast's view of the online store: a feature repository generated from the registry."""
