"""The one training loop: adapt, train and baseline are calls of it."""
