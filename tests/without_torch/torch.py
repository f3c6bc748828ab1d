"""PyTorch, hidden from processes that tests start: tensorboardX would load it, in seconds."""

raise ImportError("hidden by the tests")
