"""The server of the moshi package on the CPU, and a client that speaks to it.

Run as a program, this is the server: it waits for a GPU after its warm-up, which is left out here.
"""

import asyncio
import json
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
HANDSHAKE, SOUND, TEXT = b"\x00", b"\x01", b"\x02"  # first byte of a message
RATE_HZ, FRAME_SAMPLES = 24000, 1920
START_SEC, ANSWER_SEC = 120, 60


def write_mimi(folder: Path, card: int) -> dict[str, str]:
    """Write a tiny Mimi with random weights; return where config.json must say it is."""
    from moshi.models import loaders

    config: Any = json.loads(json.dumps(loaders._mimi_config))
    config["seanet"] |= {"dimension": 16, "n_filters": 2}
    config["transformer"] |= {"d_model": 16, "num_heads": 2, "num_layers": 1, "dim_feedforward": 32}
    config["transformer"] |= {"input_dimension": 16, "output_dimensions": [16]}
    config["quantizer"] |= {"dimension": 8, "n_q": 8, "bins": card}
    config["quantizer"] |= {"input_dimension": 16, "output_dimension": 16}
    torch.manual_seed(0)
    mimi = loaders.get_mimi(None, config)
    save_file(dict(mimi.state_dict()), folder / "mimi.safetensors")
    (folder / "mimi.json").write_text(json.dumps(config))
    return {
        "mimi_name": f"file://{folder / 'mimi.safetensors'}",
        "mimi_config_name": f"file://{folder / 'mimi.json'}",
    }


@contextmanager
def serving(argv: Sequence[str], log: Path) -> Iterator[str]:
    """Run the server until the end of the block; yields the URL of its websocket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = ["--host", "127.0.0.1", "--port", str(port), "--static", "none", "--device", "cpu"]
    environment = {**os.environ, "NO_TORCH_COMPILE": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.moshi_server", *argv, *address],
            **{"cwd": ROOT, "env": environment, "stdout": output, "stderr": output},
        )
        try:
            _wait(server, port, log)
            yield f"http://127.0.0.1:{port}/api/chat"
        finally:
            server.terminate()
            server.wait()


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SEC
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"the server does not answer:\n{log.read_text()[-3000:]}")


def talk(url: str, wave: NDArray[np.float32]) -> tuple[NDArray[np.float32], str]:
    """Speak a wave of 24 kHz to the server; return the sound and the text that come back."""
    return asyncio.run(_talk(url, wave))


async def _talk(url: str, wave: NDArray[np.float32]) -> tuple[NDArray[np.float32], str]:
    import aiohttp
    import sphn

    writer, reader = sphn.OpusStreamWriter(RATE_HZ), sphn.OpusStreamReader(RATE_HZ)
    heard: list[NDArray[np.float32]] = []
    text = ""
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket_:
        assert await socket_.receive_bytes(timeout=ANSWER_SEC) == HANDSHAKE
        for start in range(0, len(wave), FRAME_SAMPLES):
            opus = writer.append_pcm(wave[start : start + FRAME_SAMPLES])
            if opus:
                await socket_.send_bytes(SOUND + opus)
        # The first frame is before the dialogue, and Opus keeps some sound back at both ends.
        wanted = len(wave) - 6 * FRAME_SAMPLES
        while sum(map(len, heard)) < wanted:
            message = await socket_.receive_bytes(timeout=ANSWER_SEC)
            if message[:1] == SOUND:
                heard.append(reader.append_bytes(message[1:]))
            elif message[:1] == TEXT:
                text += message[1:].decode()
    return np.concatenate(heard), text


if __name__ == "__main__":
    torch.cuda.synchronize = lambda *_: None
    runpy.run_module("moshi.server", run_name="__main__")
