"""The options of the strategies that average weights."""
