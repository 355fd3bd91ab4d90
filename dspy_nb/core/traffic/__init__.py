"""The requests that programs answered and what came of them: one store for experiments and environments."""
