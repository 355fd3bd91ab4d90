"""A model's versions: what they hold, how they are stored, and what they may become."""
