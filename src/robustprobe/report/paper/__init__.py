"""The published tables of Kowalczuk et al. (2024), and ours beside them."""
