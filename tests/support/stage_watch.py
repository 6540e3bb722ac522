"""What crosses between host and device while a packet is decoded."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import textured_pair

from dsin.runtime.backends.session import Backend, Session, wrapped_sessions
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.gpu.device_tensor import DeviceTensor, Tensor
from support.cuda_emulation import copied_bytes


@dataclass
class Crossings:
    """For each graph the inputs that were on the host, and the outputs that stayed on the device;
    bytes copied to the device and from it in search and fusion; patches."""

    from_host: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    stayed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    copied: tuple[int, int] = (0, 0)
    patches: int = 0

    def check(self, bundle: str) -> None:
        """Only what is small, or comes from the entropy coder, crosses."""
        edge = bundle == "edge_bundle"
        assert self.from_host["fusion"] == ({"rate"} if edge else set())
        assert self.from_host["x_decoder"] == ({"y_hat", "rate"} if edge else {"symbols"})
        assert self.stayed["x_decoder"] == ({"x_dec", "features"} if edge else {"x_dec"})
        assert self.stayed["fusion"] == {"x_hat"}
        if edge:
            assert self.stayed["hyper"] == {"features"}
            assert self.from_host["step0"] == self.from_host["step3"] == {"decoded"}
        # The rate's index there; row, column and score of the patches back.
        assert self.copied == (8 if edge else 0, 12 * self.patches)


class _Watched:
    def __init__(self, name: str, session: Session, seen: Crossings) -> None:
        self._name, self._session, self._seen = name, session, seen
        self.provider = session.provider

    def run(self, **inputs: Tensor) -> dict[str, Any]:
        self._note(inputs)
        return self._session.run(**inputs)

    def keep(self, **inputs: Tensor) -> dict[str, Tensor]:
        self._note(inputs)
        outputs = self._session.keep(**inputs)
        there = {name for name, tensor in outputs.items() if isinstance(tensor, DeviceTensor)}
        self._seen.stayed[self._name] |= there
        return outputs

    def _note(self, inputs: dict[str, Tensor]) -> None:
        here = {name for name, tensor in inputs.items() if not isinstance(tensor, DeviceTensor)}
        self._seen.from_host[self._name] |= here


def watched_decode(bundle: Path, backend: Backend, frame: tuple[int, int]) -> Crossings:
    """In a process with the stand-in for the driver."""
    seen = Crossings()

    def wrap(path: Path, session: Session) -> Session:
        return _Watched(path.stem, session, seen)

    left, right = textured_pair(*frame, seed=3)
    with Encoder(bundle, threads=1) as encoder:
        packet = encoder.encode(left)
    with wrapped_sessions(wrap), Decoder(bundle, backend, threads=1) as decoder:
        assert decoder._halves is not None
        fuse = decoder._halves.fusion.fuse

        def counted(*arguments: Any) -> Any:
            before = copied_bytes()
            fused = fuse(*arguments)
            up, down = (now - then for now, then in zip(copied_bytes(), before, strict=True))
            seen.copied, seen.patches = (up, down), fused.matches.row.size
            return fused

        decoder._halves.fusion.fuse = counted  # type: ignore[method-assign]
        decoder.prepare_side(right)
        assert decoder.decode(packet, right).used_side
    return Crossings(dict(seen.from_host), dict(seen.stayed), seen.copied, seen.patches)
