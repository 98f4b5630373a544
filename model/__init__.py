"""What we predict: UniCoRn, its training, its evaluation and its artifact."""
