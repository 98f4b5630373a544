"""A world whose every latent is known: titles, members, moods, lists and engagements by one written law."""
