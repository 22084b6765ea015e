"""Scenes with known truth, the tiny models trained on them, and the folder that shows the service at work."""
