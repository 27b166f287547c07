"""One network fitted, and one for every fold."""
