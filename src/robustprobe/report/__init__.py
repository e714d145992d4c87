"""Tables, charts, the page and the leaderboard, made from stored results alone; never imports torch."""
