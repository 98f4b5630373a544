"""What we answer: the scorer, its HTTP interface and its clients."""

import os

# Numpy's products otherwise wait for a second thread, which on a busy machine gets no core for milliseconds. Read when
# numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
