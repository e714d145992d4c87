"""Tables and the page. Reads the store only; never imports torch."""
