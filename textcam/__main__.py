"""``python -m textcam`` and the command ``textcam``.

Our packages are loaded from where we lie before the command line is, so that a ``service.py`` of the user's
on PYTHONPATH does not come before ours.
"""

from importlib import import_module

from textcam.own_names import claim


def entry() -> None:
    """See ``service.cli.entry``. The one place that looks upwards, so by name alone."""
    claim("store", "pipelines", "service", "demo")
    import_module("service.cli").entry()


if __name__ == "__main__":
    entry()
