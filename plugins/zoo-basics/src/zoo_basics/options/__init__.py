"""The options of heads and strategies: one schema each for the command line, recipes, saved files and docs."""
