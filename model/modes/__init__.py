"""The ways to run: a case, a server, a folder, a slide; and what the platform expects."""
