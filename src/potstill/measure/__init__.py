"""Pure measuring functions: quality with its uncertainty, and speed and memory in a process of their own."""
