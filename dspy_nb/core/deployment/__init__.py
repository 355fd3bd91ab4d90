"""Environments: what is live, what was, who serves it, and whether it is as good as promised."""
