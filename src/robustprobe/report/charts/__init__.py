"""Charts for the page and as files: score against eps, share reached, clean against robust, epochs of hardening."""
