"""TextWorld."""
