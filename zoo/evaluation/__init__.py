"""How good predictions are: exact metrics of every target column, and the figures that show them."""
