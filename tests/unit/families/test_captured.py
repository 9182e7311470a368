"""Frames by a captured graph against eager ones; the graph is a recording of operations."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from csm_ft.device import autocast
from csm_ft.families import captured
from csm_ft.families.base import SamplingOptions
from csm_ft.families.captured import MIN_STEPS, NUM_EAGER_STEPS, Capture, graph_capture
from csm_ft.families.csm.model import CsmModel
from csm_ft.families.csm.sample import generate
from tests.helpers.replaying import Recorder
from tests.helpers.splits import SIZE
from tests.unit.families.csm.test_parity import Tokens, make, prompts_of

NUM_FRAMES = 30
GREEDY = SamplingOptions(max_sec=NUM_FRAMES * Tokens.frame_sec, temperature=0, seed=3)
DRAWN = SamplingOptions(max_sec=NUM_FRAMES * Tokens.frame_sec, temperature=0.9, topk=0, seed=3)
TOP_5 = SamplingOptions(max_sec=NUM_FRAMES * Tokens.frame_sec, temperature=0.9, topk=5, seed=3)
CONTEXTS = torch.randn(2, 7, SIZE.backbone.dim, generator=torch.Generator().manual_seed(0))
Choose = Callable[[Tensor, int], Tensor]


@pytest.fixture(autouse=True)
def failures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Failures of this test alone."""
    found: list[str] = []
    monkeypatch.setattr(captured, "_failures", found)
    return found


def model_of(method: str) -> CsmModel:
    torch.manual_seed(0)
    return make(SIZE, method)


def sampled(
    model: CsmModel, options: SamplingOptions, capture: Capture | None, dtype: str = "fp32"
) -> list[np.ndarray]:
    """Codes of four prompts of different lengths, sampled as one batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("csm_ft.families.csm.sample.graph_capture", lambda _: capture)
        with autocast(model.device.type, dtype):
            samples = model.sample(prompts_of(SIZE), Tokens(), options)
    return [sample.arrays["codes"] for sample in samples]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("options", [GREEDY, DRAWN, TOP_5], ids=["greedy", "drawn", "top 5"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["full", "lora", "depth_only"])
def test_replayed_frames_are_the_same(
    method: str, dtype: str, options: SamplingOptions, failures: list[str]
) -> None:
    model, recorder = model_of(method), Recorder()
    expected = sampled(model, options, None, dtype)
    assert_same(sampled(model, options, recorder, dtype), expected)
    assert not failures
    assert recorder.num_replays == NUM_FRAMES - NUM_EAGER_STEPS
    assert len({code for codes in expected for code in codes.flat}) > SIZE.audio_vocab_size // 2


def test_the_graph_is_freed_with_the_generation() -> None:
    """A training run samples between its steps, which need the memory."""
    recorder = Recorder()
    sampled(model_of("full"), DRAWN, recorder)
    assert recorder.last is not None
    assert recorder.last() is None


def test_few_frames_are_not_captured() -> None:
    model, recorder = model_of("full"), Recorder()
    frames(model, greedy, recorder, MIN_STEPS - 1)
    assert recorder.num_captures == 0
    frames(model, greedy, recorder, MIN_STEPS)
    assert recorder.num_captures == 1


def test_a_graph_of_other_codes_is_found_out(
    failures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One that does nothing, as if it read other memory than what new frames are written to."""
    model, asked = model_of("full"), list[object]()

    def idle(function: Callable[[], None]) -> Callable[[], None]:
        asked.append(function)
        return lambda: None

    expected = sampled(model, DRAWN, None)
    assert_same(sampled(model, DRAWN, idle), expected)
    said = "Generation goes on without a CUDA graph, and takes longer: it gave other codes"
    assert said in capsys.readouterr().out
    assert len(failures) == len(asked) == 1


def test_memory_that_moves_is_found_out(failures: list[str]) -> None:
    """A graph reads the noise of the frame at which it was captured."""
    model, noise = model_of("full"), [torch.empty(0)]

    def draw_elsewhere(generator: torch.Generator) -> Callable[[], None]:
        def draw() -> None:
            noise[0] = torch.rand(2, SIZE.audio_vocab_size, generator=generator)

        return draw

    def choose(logits: Tensor, _: int) -> Tensor:
        return (logits.softmax(-1) / noise[0]).argmax(-1)

    def run(capture: Capture | None) -> Tensor:
        draw = draw_elsewhere(torch.Generator().manual_seed(1))
        with torch.no_grad():
            return generate(
                model, list(CONTEXTS), choose, NUM_FRAMES, before_frame=draw, capture=capture
            )

    assert torch.equal(run(Recorder()), run(None))
    assert len(failures) == 1


def constant_of_host(logits: Tensor, _: int) -> Tensor:
    return (logits + torch.tensor([0.5])).argmax(-1)


def value_for_host(logits: Tensor, _: int) -> Tensor:
    return logits.argmax(-1) if logits.max() > 0 else logits.argmin(-1)


def greedy(logits: Tensor, _: int) -> Tensor:
    return logits.argmax(-1)


@torch.no_grad()
def frames(
    model: CsmModel, choose: Choose, capture: Capture | None, num: int = NUM_FRAMES
) -> Tensor:
    return generate(model, list(CONTEXTS), choose, num, capture=capture)


@pytest.mark.parametrize("choose", [constant_of_host, value_for_host])
def test_what_cannot_be_captured_stays_eager(
    choose: Choose, failures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of("full")
    assert torch.equal(frames(model, choose, Recorder()), frames(model, choose, None))
    (reason,) = failures
    assert "not permitted when stream is capturing" in reason
    assert capsys.readouterr().out.count(reason) == 1


def test_the_first_error_of_a_capture_is_told(failures: list[str]) -> None:
    def spoilt(function: Callable[[], None]) -> Callable[[], None]:
        try:
            raise torch.OutOfMemoryError("no memory is left\nat a place")
        finally:
            raise RuntimeError("a previous error has ended the capture")

    model = model_of("full")
    assert torch.equal(frames(model, greedy, spoilt), frames(model, greedy, None))
    assert failures == ["no memory is left"]


def test_a_graph_is_captured_only_where_it_is_safe(failures: list[str]) -> None:
    def model_on(device: str, **more: Any) -> Any:
        weight = SimpleNamespace(device=torch.device(device))
        return SimpleNamespace(parameters=lambda: iter([weight]), **more)

    def in_a_thread() -> None:
        beside_others.append(graph_capture(model_on("cuda")))

    assert graph_capture(model_on("cuda")) is not None
    assert graph_capture(model_on("cpu")) is None
    assert graph_capture(model_on("cuda", unshard=lambda: None)) is None, "of FSDP"
    beside_others: list[Capture | None] = []
    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert beside_others == [None]
    failures.append("not supported")
    assert graph_capture(model_on("cuda")) is None


class FakeStream:
    """Notes what waits for what."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self._events = name, events

    def wait_stream(self, other: "FakeStream") -> None:
        self._events.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A torch.cuda that notes what is asked of it; its streams are named."""
    events, current = list[str](), ["current"]

    @contextmanager
    def stream(chosen: FakeStream) -> Iterator[None]:
        before, current[0] = current[0], chosen.name
        yield
        current[0] = before

    @contextmanager
    def graph(_: object, *, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        events.append(f"{capture_error_mode} capture on {stream.name}")
        yield
        events.append("end of capture")

    class CUDAGraph:
        def replay(self) -> None:
            events.append(f"replay on {current[0]}")

    side = FakeStream("side", events)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: FakeStream(current[0], events))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
    captured._side_stream.cache_clear()
    yield events
    captured._side_stream.cache_clear()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_capture_is_as_torch_prescribes(dtype: str, fake_cuda: list[str]) -> None:
    """It warms up on the same stream; no weight that autocast has cast is kept or read."""
    weight = torch.nn.Parameter(torch.ones(3, 3))

    def function() -> None:
        product = weight @ torch.ones(3, 1)
        kept = "kept" if torch.is_autocast_cache_enabled() else "made anew"
        fake_cuda.append(f"{str(product.dtype)[6:]} {kept}")

    with autocast("cpu", dtype):
        replay = captured._capture_graph(torch.device("cpu"), function)
        assert torch.is_autocast_cache_enabled()
    replay()
    product = "bfloat16 made anew" if dtype == "bf16" else "float32 made anew"
    assert fake_cuda == [
        "side waits for current",
        product,
        "thread_local capture on side",
        product,
        "end of capture",
        "current waits for side",
        "replay on current",
        "replay on current",
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="it captures on a real GPU")
@pytest.mark.parametrize("options", [GREEDY, DRAWN, TOP_5], ids=["greedy", "drawn", "top 5"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["full", "lora", "depth_only"])
def test_frames_of_a_gpu_are_the_same(
    method: str, dtype: str, options: SamplingOptions, failures: list[str]
) -> None:
    model, replays = model_of(method).to("cuda"), list[object]()
    model.join_weights()
    on_gpu = graph_capture(model)
    assert on_gpu is not None

    def counted(function: Callable[[], None]) -> Callable[[], None]:
        replay = on_gpu(function)

        def count() -> None:
            replays.append(replay())

        return count

    expected = sampled(model, options, None, dtype)
    held = list[int]()
    for _ in range(3):
        assert_same(sampled(model, options, counted, dtype), expected)
        torch.cuda.empty_cache()
        held.append(torch.cuda.memory_reserved())
    assert not failures
    assert len(replays) == 3 * (NUM_FRAMES - NUM_EAGER_STEPS)
    assert held[1] == held[2], "what a graph took is free again"
