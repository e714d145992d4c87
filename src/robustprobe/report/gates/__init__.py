"""Gates for pipelines: rules that numbers have to keep, and regressions against a baseline; never imports torch."""
