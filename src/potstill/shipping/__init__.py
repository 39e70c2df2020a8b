"""What is done with an exported model: ask it, measure it, show it, push it."""
