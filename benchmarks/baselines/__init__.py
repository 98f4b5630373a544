"""What Nowrank is compared with: the same work done in the most straightforward way, or not done at all."""
