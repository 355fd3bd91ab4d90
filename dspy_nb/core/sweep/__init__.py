"""Which optimizer, which model, which seed: optimizations under one budget, then a fair comparison."""
