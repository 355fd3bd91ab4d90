"""The IPython extension: magics that parse, call core and show; listeners; widgets."""
