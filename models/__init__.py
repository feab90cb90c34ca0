"""The three parts of a live music model and what they share: numbers, tokens, weights."""
