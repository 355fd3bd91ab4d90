"""The registry as one door: models, environments, checks, differences, archives."""
