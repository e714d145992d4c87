"""What all rooms share: types, specifications, names, the threat model, errors, files."""
