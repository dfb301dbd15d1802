"""What a run needs around the method: device and precision, processes, checkpoints, files, its result."""
