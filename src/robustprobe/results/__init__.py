"""Results on disk: records, rows of images, where they come from; several folders as one."""
