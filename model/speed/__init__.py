"""The same answers sooner. A reader may skip all of it, and a user switch it off.

    imports           PyTorch and timm without what a prediction never uses
    initialisation    a network without the random numbers that trained ones replace
    folding           batch norms and activations as a part of the convolutions before them (CPU)
    blocks            DINOv3's transformer blocks with fewer passes over memory (GPU)
    memory            the C library keeps freed memory for the next layer (CPU)

With the environment variable ATYPICAL_MITOSIS_PLAIN=1 none of this is done: for a look at whether a fault is in it, and
to see what it brings.
"""

import os

PLAIN = os.environ.get("ATYPICAL_MITOSIS_PLAIN", "") not in ("", "0")
"""Whether everything in this folder is switched off."""
