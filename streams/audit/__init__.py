"""The log held against what was made of it: the store (`verify.py`) and the features that were served (`skew.py`)."""
