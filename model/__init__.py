"""What we predict: UniCoRn, its training, its evaluation and its artifact."""

import os

# ONNX Runtime's official builds send usage data to its maker unless this is set before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
