"""Data sets out of and into this project: the published format and those of other tools."""
