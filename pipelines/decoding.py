"""Decoding elsewhere: what a process holds that decodes for a run's workers (see ``execute.Decoders``)."""

from collections.abc import Mapping, Sequence

from pipelines.bench import Bench
from pipelines.config import Config
from pipelines.feed import Loaded, Request, Unusable, load_image
from pipelines.working import Clock


class Decoder:
    """Reads, decodes and prepares images for the classifiers of these configurations, and for their encoder.

    Models are loaded for their preprocessing, on cores, and their networks let go.
    """

    def __init__(self, configs: Sequence[Config]) -> None:
        self._benches: dict[str, Bench] = {}
        for config in configs:
            run = config.run.model_copy(update={"device": "cpu", "compile": False})
            bench = Bench(config.model_copy(update={"run": run}))
            if self._benches:
                bench.encoder = next(iter(self._benches.values())).encoder
            _ = bench.encoder, bench.classifier, bench.reader  # opened here, once, not by every thread
            self._benches[bench.classifier.preparation] = bench
            bench.classifier.let_network_go()
        bench.encoder.let_network_go()

    def __call__(self, request: Request) -> tuple[list[Loaded | Unusable], Mapping[str, float]]:
        """The images of a request, in its order, and the seconds that went into them."""
        clock = Clock()
        benches = [self._benches[preparation] for preparation in request.preparations]
        read = zip(request.refs, request.read, strict=True)
        return [load_image(benches, ref, clock, data) for ref, data in read], clock.seconds
