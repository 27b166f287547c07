"""Image files into crops; the only code that opens images."""
