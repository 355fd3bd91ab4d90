"""What is on disk is whole, or not there."""
