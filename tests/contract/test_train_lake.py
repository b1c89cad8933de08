"""A lake in a bucket, as training reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models_onnx.train.tune import local
from sync.cloud import open_cloud

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.conftest import S3Server

KEY = "readings/site=farm1/date=2026-11-22/0a1b2c3d4e5f-01234567-1-500.parquet"


def test_what_training_needs_of_a_bucket_is_copied_once(s3: S3Server, tmp_path: Path) -> None:
    url = f"s3://{s3.bucket}/training/lake"
    cloud = open_cloud(url, s3.options())
    for key in (KEY, KEY.replace("readings", "flocks"), KEY.replace("readings", "predictions"), "readings/notes.txt"):
        cloud.put_new(key, b"as sealed")
    folder = local(url, s3.options(), tmp_path)
    copied = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert copied == [KEY.replace("readings", "flocks"), KEY]
    (folder / KEY).write_bytes(b"kept")
    assert (local(url, s3.options(), tmp_path) / KEY).read_bytes() == b"kept"
