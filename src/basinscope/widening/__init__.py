"""What widening is made of: recipes, texts, the training loop, measuring, and the dry run."""
