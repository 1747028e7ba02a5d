"""What the weights move along, and the words for it."""
