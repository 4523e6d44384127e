"""The options of the strategies that change the loss: objective, penalty."""
