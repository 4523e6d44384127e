"""The options of the strategies that change the data: augment, sampling, batch."""
