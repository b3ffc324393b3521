"""Executed in the kernel before a notebook: counts the bytes that Python's sockets receive from other machines."""


def count_downloads() -> None:
    import os
    import socket
    import ssl
    from pathlib import Path

    if "DTL_METER" not in os.environ:
        return
    total, target = 0, Path(os.environ["DTL_METER"])

    def remote(connection) -> bool:
        try:
            host = connection.getpeername()[0]
        except (OSError, IndexError):
            return False
        return connection.family != socket.AF_UNIX and not host.startswith(("127.", "::1"))

    def counted(method, length):
        def receive(self, *args, **kwargs):
            nonlocal total
            result = method(self, *args, **kwargs)
            if remote(self):
                total += length(result)
                target.write_text(str(total))
            return result

        return receive

    plain = socket.socket
    plain.recv, plain.recv_into = counted(plain.recv, len), counted(plain.recv_into, int)
    secure = ssl.SSLSocket  # its recv and recv_into both end in read, below the plain socket's methods
    secure.read = counted(secure.read, lambda result: result if isinstance(result, int) else len(result))


count_downloads()
del count_downloads
