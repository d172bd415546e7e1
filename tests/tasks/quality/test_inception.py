"""FID's weights: none unless asked for, never from elsewhere, and their absence is a sentence."""

import hashlib
import http.client
import io
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.measures import inception as network_module
from model.measures.encoder import Encoder
from model.measures.inception import Inception
from tasks.params import Quality
from tasks.quality import inception, stage


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new working folder, and a socket that refuses."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("the test refuses every socket")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_by_default_the_network_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("the network was asked"))
    assert inception.load(Quality().inception_weights) == (
        None,
        "Not used: quality.inception_weights is empty, so there is no FID.",
    )


def test_offline_it_says_so_and_leaves_nothing() -> None:
    network, words = inception.load("download")
    assert network is None
    assert words.startswith("Not used: the weights could not be had from the network")
    assert "\n" not in words
    assert not inception.CACHE.exists()


def test_a_download_that_breaks_off_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise http.client.IncompleteRead(b"half", 91)

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Broken())
    network, words = inception.load("download")
    assert network is None
    assert words.startswith("Not used: the weights could not be had from the network (IncompleteRead")
    assert not inception.CACHE.exists()


def test_a_path_is_not_told_to_the_report(tmp_path: Path) -> None:
    _, words = inception.load(str(tmp_path / "none.pth"))
    assert "the file 'none.pth' (No such file or directory)" in words
    assert str(tmp_path) not in words


def test_what_is_not_the_published_file_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    network, words = inception.load("weights.pth")
    assert network is None
    assert "SHA-256" in words


def test_a_download_is_checked_kept_and_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    buffer, asked = io.BytesIO(), []
    torch.save(Inception().state_dict(), buffer)

    def served(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(buffer.getvalue())

    monkeypatch.setattr(urllib.request, "urlopen", served)
    assert "has not the SHA-256" in inception.load("download")[1]
    assert not inception.CACHE.exists()
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    monkeypatch.setattr(network_module, "WEIGHTS_SHA256", digest)
    monkeypatch.setattr(inception, "WEIGHTS_SHA256", digest)
    for _ in range(2):
        network, words = inception.load("download")
        assert words == inception.USED
    assert asked == [inception.URL] * 2  # the third time it lay in the cache

    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16)).astype(np.uint8)
    result = stage.measure(images, images, Encoder().eval(), Quality(pairs=5, repeats=1), network)
    assert {"fid", "kid"} < set(result["measures"])
    assert result["measures"]["fid"]["value"] >= 0
