"""What fine-tuning is made of: data, token masks, recipes, checkpoints and the training loop."""
