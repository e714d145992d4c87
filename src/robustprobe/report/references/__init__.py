"""Published numbers of other projects, one file each, beside ours."""
