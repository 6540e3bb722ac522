"""What a visit to a GPU does, in order of value, and how it divides its time."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

PROVE_S = 150.0
"""Seconds that all stages that prove something have together; training gets the rest."""
RESERVE_S = 20.0
"""Seconds at the end that no stage gets: what came of them must still leave the machine."""
LEAST_S = 5.0
"""With less than this a stage is not begun."""
REHEARSAL_PATIENCE = 4.0
"""How much longer everything may take in a rehearsal: the emulation shares a busy machine."""


@dataclass(frozen=True)
class Stage:
    """A program of its own beside this file, `stage_<name>.py`, with at most `limit_s` seconds."""

    name: str
    proves: str
    limit_s: float
    trains: bool = False
    program: Path | None = None
    """Another program than the one of its name."""

    @property
    def path(self) -> Path:
        return self.program or HERE / f"stage_{self.name}.py"


STAGES = (
    Stage("machine", "what this machine is, and that its driver serves CUDA", 20),
    Stage("pack", "the data pack is whole", 30),
    Stage("kernels", "every CUDA kernel finds what the definition finds", 75),
    Stage("sanitizer", "no kernel touches foreign memory or races", 45),
    Stage("timing", "the search takes 0.3 ms, and what others take", 40),
    Stage("operator", "PyTorch's operator on CUDA is the definition", 30),
    Stage("codec", "bytes made on the GPU decode on the CPU, and the other way round", 45),
    Stage("ort_cuda", "the backend cuda codes as the CPU does", 45),
    Stage("tensorrt_rtx", "whether TensorRT for RTX executes an engine here", 60),
    Stage("train", "training keeps the GPU busy", float("inf"), trains=True),
)


def chosen(names: str | None, stages: tuple[Stage, ...] = STAGES) -> tuple[Stage, ...]:
    """The stages that `--only` names (None: all), in their own order. Raises ValueError."""
    if names is None:
        return stages
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [stage.name for stage in stages]
    for name in wanted:
        if name not in known:
            raise ValueError(f"there is no stage {name!r}: use some of {', '.join(known)}")
    if not wanted:
        raise ValueError(f"--only names no stage: use some of {', '.join(known)}")
    return tuple(stage for stage in stages if stage.name in wanted)


def seconds_for(
    stage: Stage, *, proved_s: float, left_s: float, patience: float = 1
) -> float | None:
    """What a stage may take when others took `proved_s` seconds for proofs and `left_s` are left
    of the visit; None where that is too little to begin."""
    free = left_s - RESERVE_S
    own = min(patience * stage.limit_s, patience * PROVE_S - proved_s)
    limit = free if stage.trains else min(own, free)
    return limit if limit >= LEAST_S else None
