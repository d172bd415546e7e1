"""No secret of an address is printed, and what remains still says where it is."""

import base64
import subprocess
import sys

import pytest

from tasks.tracking.addresses import authorization, text_without_credentials, without_credentials


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://name:secret@host:5000/base/?token=secret#secret", "http://host:5000/base/"),
        ("https://secret@host", "https://host"),
        ("http://name:secr@secret@host", "http://host"),
        ("http://name:secr/secret@host", "http://host"),
        ("http://name:s?e#secret@host", "http://host"),
        ("http://name:s://secret@host", "http://host"),
        ("http://name:secret@[::1]:5000", "http://[::1]:5000"),
        ("postgresql+psycopg2://name:s e/secret@host:1/mlflow?password=secret", "postgresql+psycopg2://host:1/mlflow"),
        ("name:secret@host:5000", "host:5000"),
        ("sqlite:////films/of@work/mlflow.db", "sqlite:////films/of@work/mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("/films/of@work/mlruns", "/films/of@work/mlruns"),
        ("mlruns", "mlruns"),
        ("", ""),
    ],
)
def test_what_may_be_printed(address: str, shown: str) -> None:
    assert without_credentials(address) == shown
    assert without_credentials(shown) == shown


def test_every_address_in_a_text_is_shown_so() -> None:
    said = "request to http://a:secret@host:1/api?key=secret failed, as to postgresql://a:secret@db/x; ask me@work"
    assert text_without_credentials(said) == "request to http://host:1/api failed, as to postgresql://db/x; ask me@work"
    assert text_without_credentials("database is locked") == "database is locked"


def test_the_header_is_that_of_the_name_and_the_password() -> None:
    assert authorization("http://name:s%40c@host") == f"Basic {base64.b64encode(b'name:s@c').decode()}"
    assert authorization("http://host") == ""


def test_it_is_cheap_to_import() -> None:
    code = "import sys, tasks.tracking.addresses; print('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
