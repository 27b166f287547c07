"""One self-contained HTML page for those who would rather look than read."""
