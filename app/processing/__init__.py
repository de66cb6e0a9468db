"""Processing an event: receiving it, claiming it, running its callback, recording the result."""
