"""What several modules must agree on; imports nothing, so that it costs nothing."""

CLASSES = ("normal", "atypical")
"""Class names by label; label 1, atypical, is the positive class."""

THRESHOLD = 0.5
"""A crop is atypical exactly when its confidence is at least this; the operating point lives in the calibration."""

VIEW_SETS = ("none", "rot4", "d4")
"""Sets of views that test-time augmentation can average (see `model.network.views`)."""

DEFAULT_VIEWS = "d4"
"""The one that the container averages unless it is told another, and that held-out predictions are averaged over."""

MICROMETRES_PER_PIXEL = 0.25
"""Resolution that crops are expected to have and that fields of view are counted in."""


def is_expected(mpp: float) -> bool:
    """Whether a stated resolution, in µm per pixel, is the expected one to a tenth."""
    return 1 / 1.1 <= mpp / MICROMETRES_PER_PIXEL <= 1.1


REPORT = "report.html"
"""What a page to look at is called, in the folder of what it is about."""

GENERATOR = '<meta name="generator" content="atypical-mitosis">'
"""By which such a page is known for one of this program's; near its beginning."""

HOST, PORT = "127.0.0.1", 4743
"""Where the platform looks for the invoke server."""
