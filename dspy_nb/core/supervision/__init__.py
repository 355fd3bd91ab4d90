"""What holds any optimizer to its limits, and follows what it tries."""
