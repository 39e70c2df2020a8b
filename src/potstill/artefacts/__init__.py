"""What a shipped folder says of itself, and how its texts are read where neither torch nor transformers is there."""
