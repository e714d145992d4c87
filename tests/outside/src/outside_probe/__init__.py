"""One thing of each kind added to robustprobe from another package, on its public names alone."""
