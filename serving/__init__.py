"""What we answer: the scorer, its HTTP interface and its clients."""
