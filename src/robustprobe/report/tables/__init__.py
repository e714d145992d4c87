"""Numbers in order: matrices, rankings, comparisons, and how tables are written."""
