"""What an event means: engagements, folds, the feature registry, vectors and the online store."""
