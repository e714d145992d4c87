"""Charts for the page and as files: score against eps, share kept, clean against robust, epochs of hardening."""
