"""Losses per image: every function returns one finite number per image, shape (B,), for any input."""
