"""Run many examples at once: in threads, in other processes, on a cluster."""
