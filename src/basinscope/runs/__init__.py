"""What is measured, where it is kept, and where it is run."""
