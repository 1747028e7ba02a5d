"""Training methods side by side: tables, forgetting at matched loss, figures' numbers."""
