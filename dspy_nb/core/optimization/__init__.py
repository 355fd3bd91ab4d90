"""``optimize()``: DSPy's optimizers under a budget, with the best candidate kept."""
