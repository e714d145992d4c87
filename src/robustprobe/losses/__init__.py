"""Losses per image. Every function returns one finite number an image, shape (B,), whatever its input."""
