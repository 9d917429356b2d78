"""moto, an S3 server in this process: quick, but it checks no signature and no checksum."""

import functools
import logging

from moto.server import ThreadedMotoServer

from tests.support.s3_access import S3Access


@functools.cache
def moto() -> S3Access:
    """Return access to the server, started on first use; its threads end with the process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return S3Access(f"http://{host}:{port}", "vfs-test-access", "vfs-test-secret")
