"""Ablations: what each part of UniCoRn is worth, from many networks that learn from one data set and rank the same
requests.

Enters: a log. Leaves: paired differences with intervals. Called by `nowrank ablate`.
"""
