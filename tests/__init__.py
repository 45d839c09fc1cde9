"""Tests, several at a time on few cores: numpy computes in one thread, as torch does.

Its threads wait by spinning, and where they are more than cores a decomposition takes ten times as
long and more. The variable is read when numpy is loaded.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
