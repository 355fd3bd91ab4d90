"""What a DSPy program is made of, and every seam into DSPy's internals."""
