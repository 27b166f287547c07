"""What the container needs to run, and nothing else: no training dependency is imported from here."""
