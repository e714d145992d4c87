"""Charts, for the page and as files."""
