"""Whole slides and the detections on them: pixels around a point, where the points are, what is said of them."""
