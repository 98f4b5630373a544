"""History encoders: a user's whole past as one vector, learned by predicting what came next."""
