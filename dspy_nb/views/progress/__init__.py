"""What is going on: the state of long calls, and how terminals and notebooks show it."""
