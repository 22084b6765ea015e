"""The run: from a configuration and a folder of images to a committed store."""

import textcam  # noqa: F401  # its name for ``store`` has to hold first
