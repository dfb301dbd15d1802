"""What a run needs around the method: device and precision, several processes, checkpoints, files, its result."""
