"""What only a GPU takes: a step that is recorded once, and Adam in one pass over memory."""
