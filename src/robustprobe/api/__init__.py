"""The functions of `robustprobe`'s Python surface, one file for each purpose; `robustprobe` itself exports them."""
