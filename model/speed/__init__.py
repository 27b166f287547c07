"""The same answers sooner. A reader may skip all of it."""
