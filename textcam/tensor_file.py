"""Writing arrays as a safetensors file: eight bytes of length, a JSON header, the raw numbers.

The format is small and the light query layer does without the library; the tests read with it.
"""

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def tensor_bytes(arrays: Mapping[str, NDArray[np.float32]], metadata: Mapping[str, str]) -> bytes:
    """The file's bytes: float32 ``arrays`` by name, and text about them."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    body = b""
    for name, array in sorted(arrays.items()):
        data = np.ascontiguousarray(array, "<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header, ensure_ascii=False, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body
