"""The ways to run: a case, a server, a folder; and what the platform expects."""
