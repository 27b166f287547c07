"""One script per question of speed; none of them is a test."""
