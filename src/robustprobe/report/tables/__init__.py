"""Tables: scores per task, ranking, transfer, comparison of two folders, and the formats they are written in."""
