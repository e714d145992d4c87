"""The page: one HTML file with the result in words, tables, charts and attacked images; its templates and scripts."""
