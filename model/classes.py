"""The two classes and where one becomes the other."""

CLASSES = ("normal", "atypical")
"""Class names by label; label 1, atypical, is the positive class."""

THRESHOLD = 0.5
"""A crop is atypical exactly when its confidence is at least this; the operating point lives in the calibration."""
