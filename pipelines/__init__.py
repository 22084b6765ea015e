"""The run: from a configuration and a folder of images to a committed store."""
