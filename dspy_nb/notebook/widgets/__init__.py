"""Widgets for notebooks: views of what core does, without logic of their own."""
