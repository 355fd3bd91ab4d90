"""``evaluate()``: a program asked about every example, counted with intervals."""
