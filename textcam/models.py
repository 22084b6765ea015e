"""The models that a store names, loaded when a query first needs them, and refused if they are others.

What would run code that the store names is refused as well, unless somebody trusts the store (``trust``).

torch comes in here, and only when a model is loaded.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from store.errors import EncoderMismatch, ModelError, TextcamError
from store.manifest import Manifest
from textcam.arrays import Floats
from textcam.texts import DEFAULT_TEMPLATES, TextBank, embed_bank
from textcam.trust import check_trusted

if TYPE_CHECKING:
    from textcam.classifier import TorchClassifier
    from textcam.encoder import ClipEncoder

_NEEDS = "pip install 'textcam[precompute]'"


class StoreModels:
    """Classifier and encoder of the run that made a snapshot.

    ``trust_code``: whether code that the store names may run.
    """

    def __init__(self, manifest: Manifest, device: str = "cpu", *, trust_code: bool = False) -> None:
        self._config, self._fingerprints, self._device = manifest.config, manifest.fingerprints, device
        self._trust_code = trust_code

    @cached_property
    def classifier(self) -> "TorchClassifier":
        """The classifier; ModelError if it cannot be loaded, is not the one that made the store, or is code
        that nobody said to trust.
        """
        section = {"two_sided": False, **self._section("classifier")}  # an older store does not say
        try:
            from textcam.classifier import load_classifier
        except ImportError as error:
            raise ModelError(
                f"Explaining pixels needs {error.name}.", where="classifier", fix=_NEEDS
            ) from None
        loaded = load_classifier(**section, device=self._device)
        self._compare("classifier", loaded, ModelError)
        return loaded

    @cached_property
    def encoder(self) -> "ClipEncoder":
        """The encoder; EncoderMismatch if it is not the one that made the store, ModelError if it cannot be
        loaded or is code that nobody said to trust.
        """
        section = self._section("encoder")
        try:
            from textcam.encoder import load_encoder
        except ImportError as error:
            raise ModelError(
                f"A text that is not in the store's bank needs {error.name}.", where="encoder", fix=_NEEDS
            ) from None
        loaded = load_encoder(**section, device=self._device)
        self._compare("encoder", loaded, EncoderMismatch)
        return loaded

    def encode_text(self, text: str) -> Floats:
        """Unit embedding (D,) of any text, averaged over the store's prompt templates as the bank is."""
        given = self._config.get("texts", {}).get("templates")
        if isinstance(given, Mapping):
            given = given.get("other")
        templates = {"other": tuple(given) if given else DEFAULT_TEMPLATES["other"]}
        return embed_bank(TextBank((text,), ("other",), templates), self.encoder.encode_texts)[0]

    def _section(self, name: str) -> dict[str, Any]:
        section = self._config.get(name)
        if not section:
            raise ModelError(f"The store does not say which {name} made it.", where="manifest, config")
        check_trusted(self._config, name, trust_code=self._trust_code)
        return dict(section)

    def _compare(
        self, name: str, loaded: "TorchClassifier | ClipEncoder", refuse: type[TextcamError]
    ) -> None:
        stored = self._fingerprints.get(name, "")
        if not loaded.made(stored):
            raise refuse(
                f"This {name} is not the one that made the store: its numbers would mean something else.",
                where=f"{loaded.name}: fingerprint {loaded.fingerprint[:14]}, "
                f"the store has {stored[:14] or 'none'}",
                fix=f"Put back the {name}'s weights and settings, or run the precompute again.",
            )
